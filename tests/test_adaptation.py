"""Freezing as invariants, on EfficientNet-Lite0 (BatchNorm everywhere), with momentum and weight decay."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, TinyBackbone, tiny_model
from torch import nn

from sftlib.adaptation import freeze, is_frozen, param_groups, trainable, unfreeze
from sftlib.backbones import load_backbone
from sftlib.model import LinearHead, Model
from sftlib.training import train_step


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet_lite0", size=37)


@pytest.fixture
def frozen(lite0):
    torch.manual_seed(0)
    backbone = copy.deepcopy(lite0)
    return Model(freeze(backbone), LinearHead(backbone.feature_dim, K))


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def some_steps(model, groups, steps=3):
    g = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        x, y = torch.randn(5, 3, 37, 37, generator=g), torch.randint(K, (5,), generator=g)
        train_step(model, x, y, optimizer, task_loss=F.cross_entropy)
    return optimizer


def test_frozen_backbone_gets_no_gradients(frozen):
    some_steps(frozen, param_groups(head=(frozen.head, 0.1)))
    assert all(p.grad is None and not p.requires_grad for p in frozen.backbone.parameters())
    assert all(p.grad is not None for p in frozen.head.parameters())


def test_frozen_backbone_keeps_parameters_and_buffers_to_the_bit(frozen):
    before = state_of(frozen.backbone)
    head = state_of(frozen.head)
    some_steps(frozen, param_groups(head=(frozen.head, 0.1)))
    assert same(before, frozen.backbone.state_dict())
    assert not same(head, frozen.head.state_dict())


def test_frozen_backbone_still_keeps_them_after_a_later_train_call(frozen):
    before = state_of(frozen.backbone)
    frozen.train()
    frozen.backbone.train()
    for part in frozen.backbone.children():
        part.train()
    some_steps(frozen, param_groups(head=(frozen.head, 0.1)))
    assert same(before, frozen.backbone.state_dict())
    assert frozen.training and frozen.head.training and not any(m.training for m in frozen.backbone.modules())


def test_frozen_backbone_gives_the_same_output_in_train_and_eval_mode(frozen):
    x = torch.randn(5, 3, 37, 37, generator=torch.Generator().manual_seed(2))
    frozen.train()
    in_train = frozen.backbone(x)
    frozen.eval()
    assert torch.equal(in_train, frozen.backbone(x))


def test_param_groups_refuse_a_frozen_module_and_say_which(frozen):
    with pytest.raises(ValueError, match="'backbone' is frozen"):
        param_groups(backbone=(frozen.backbone, 1e-3), head=(frozen.head, 1e-2))


def test_after_unfreezing_each_parameter_is_in_exactly_one_group(frozen):
    unfreeze(frozen.backbone)
    groups = param_groups(backbone=(frozen.backbone, 1e-3), head=(frozen.head, 1e-2))
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in frozen.parameters())
    assert [(g["name"], g["lr"]) for g in groups] == [("backbone", 1e-3), ("head", 1e-2)]


def test_unfrozen_backbone_moves_again_with_its_statistics(frozen):
    unfreeze(frozen.backbone)
    frozen.train()
    before = state_of(frozen.backbone)
    some_steps(frozen, param_groups(all=(frozen, 0.01)), steps=1)
    after = frozen.backbone.state_dict()
    # momentum and decay reach every floating tensor; every BatchNorm saw a batch
    assert all(not torch.equal(before[k], after[k]) for k in before if "weight" in k or "running" in k)
    frozen.eval()
    assert not any(m.training for m in frozen.modules())


@pytest.mark.parametrize("through", ["deepcopy", "pickle", "torch.save"])
def test_copies_of_a_frozen_model_stay_frozen_and_apart(frozen, through):
    if through == "deepcopy":
        other = copy.deepcopy(frozen)
    elif through == "pickle":
        other = pickle.loads(pickle.dumps(frozen))
    else:
        file = io.BytesIO()
        torch.save(frozen, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    other.train()
    before = state_of(other.backbone)
    some_steps(other, param_groups(head=(other.head, 0.1)))
    assert is_frozen(other.backbone) and same(before, other.backbone.state_dict())
    unfreeze(other.backbone)
    assert is_frozen(frozen.backbone) and not frozen.train().backbone.training


def test_pickles_from_before_adaptation_was_a_package_still_load():
    now = pickle.dumps(freeze(nn.Linear(5, 3)), protocol=0)
    before = now.replace(b"csftlib.adaptation.freezing\n", b"csftlib.adaptation\n")
    assert before != now and is_frozen(pickle.loads(before).train())


def test_part_of_a_frozen_module_can_be_unfrozen():
    model = tiny_model()
    freeze(model.backbone)
    unfreeze(model.backbone.conv)
    model.train()
    assert [m.training for m in (model.backbone, model.backbone.conv, model.backbone.norm)] == [False, True, False]
    assert not is_frozen(model.backbone) and is_frozen(model.backbone.norm)
    (group,) = param_groups(backbone=(model.backbone, 0.1))
    assert [id(p) for p in group["params"]] == [id(model.backbone.conv.weight)]


def test_freezing_twice_is_freezing_once():
    model = tiny_model()
    freeze(freeze(model.backbone))
    unfreeze(model.backbone)
    assert model.backbone.train().norm.training and len(trainable(model)) == 5


def test_is_frozen_needs_both_parameters_and_mode():
    module = TinyBackbone()
    module.requires_grad_(False)
    assert not is_frozen(module)  # BatchNorm statistics would still move
    assert is_frozen(freeze(module))


def test_a_wrapper_trains_inside_a_frozen_module():
    backbone = freeze(TinyBackbone())
    backbone.extra = nn.Dropout(0.5)
    backbone.train()
    assert backbone.extra.training and not backbone.norm.training


def test_param_groups_refuse_shared_parameters_and_bad_rates():
    model = tiny_model()
    with pytest.raises(ValueError, match="'all' and 'head' share"):
        param_groups(all=(model, 1e-3), head=(model.head, 1e-2))
    for lr in (0, -1.0, float("nan"), float("inf"), "1e-3", None):
        with pytest.raises(ValueError, match="learning rate"):
            param_groups(head=(model.head, lr))
    with pytest.raises(ValueError, match="no groups"):
        param_groups()
    with pytest.raises(ValueError, match="got a str"):
        freeze("backbone")


def test_tied_parameters_inside_one_group_are_held_once():
    first, second = nn.Linear(D, D), nn.Linear(D, D)
    second.weight = first.weight
    (group,) = param_groups(both=(nn.Sequential(first, second), 0.1))
    assert len(group["params"]) == 3
