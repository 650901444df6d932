"""Who trains, and at which rate: one part, biases, geometric rates, gradual unfreezing with a live optimizer."""

import copy
import pickle

import pytest
import torch
from helpers import K, N, TinyBackbone, batches, plain_model, tiny_model
from torch import nn

from sftlib.adaptation import (
    add_group,
    blocks,
    decay_matrices_only,
    freeze,
    geometric_rates,
    gradual,
    is_frozen,
    param_groups,
    train_biases_only,
    train_only,
    trainable,
    unfreeze,
    untie,
)
from sftlib.backbones import load_backbone
from sftlib.model import LinearHead, Model
from sftlib.training import fit


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet_lite0", size=37)


def layers(n=5):
    """-> n linear layers with a normalisation behind the second, one name each"""
    parts = {f"layer{i}": nn.Linear(i + 2, i + 3) for i in range(n)}
    items = list(parts.items())
    return dict([*items[:2], ("norm", nn.BatchNorm1d(4)), *items[2:], ("pool", nn.Flatten())])


def rates(parts):
    return {name: lr for name, (_, lr) in parts.items()}


def trained_names(model, loader=None, epochs=1):
    """Names of the tensors of the state that a run of fit moved"""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9, weight_decay=0.1)
    list(fit(model, loader or batches(2), optimizer, epochs=epochs))
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


# --- which parts -------------------------------------------------------------------------------------------------


def test_one_stage_trains_and_all_else_stays_to_the_bit(lite0):
    model = Model(copy.deepcopy(lite0), LinearHead(1280, K))
    train_only(model, model.backbone.stage1, model.head)
    loader = [(torch.randn(5, 3, 37, 37), torch.arange(5) % K)]
    moved = trained_names(pickle.loads(pickle.dumps(model)), loader)
    assert moved == {k for k in model.state_dict() if k.startswith(("backbone.stage1.", "head."))}


def test_another_part_may_follow_and_none_freezes_all():
    model = tiny_model()
    train_only(train_only(model, model.head), model.backbone.norm)
    assert trained_names(model) == {k for k in model.state_dict() if ".norm." in k}
    assert is_frozen(train_only(model))


def test_a_stranger_is_refused_before_anything_is_frozen():
    model = tiny_model()
    with pytest.raises(ValueError, match="no part of the module"):
        train_only(model, model.head, nn.Linear(3, 3))
    assert len(trainable(model)) == 5


def test_biases_and_head_train_and_nothing_else(lite0):
    model = Model(train_biases_only(copy.deepcopy(lite0)), LinearHead(1280, K))
    moved = trained_names(model, [(torch.randn(5, 3, 37, 37), torch.arange(5) % K)])
    assert moved == {k for k in model.state_dict() if k.endswith(".bias")} | {"head.weight"}
    assert 0.002 < sum(p.numel() for p in trainable(model.backbone)) / 3_370_000 < 0.01


def test_biases_of_attention_are_biases_too():
    attention = train_biases_only(nn.MultiheadAttention(6, 2))
    assert {n for n, p in attention.named_parameters() if p.requires_grad} == {"in_proj_bias", "out_proj.bias"}
    with pytest.raises(ValueError, match="no part of this Conv2d has a bias"):
        train_biases_only(nn.Conv2d(3, 5, 3, bias=False))


# --- at which rate -----------------------------------------------------------------------------------------------


def test_rates_fall_geometrically_from_the_top_and_a_norm_goes_with_its_layer():
    got = rates(geometric_rates(layers(), lr=0.1, factor=2.6))
    ratios = {"layer0": 4, "layer1": 3, "norm": 3, "layer2": 2, "layer3": 1, "layer4": 0}
    assert got == pytest.approx({name: 0.1 / 2.6**n for name, n in ratios.items()})
    assert "pool" not in got


def test_rates_are_numpys_geometric_progression_between_two_ends():
    np = pytest.importorskip("numpy")
    parts = {f"layer{i}": nn.Linear(3, 3) for i in range(5)}
    low, high = 1e-4, 1e-2
    got = rates(geometric_rates(parts, lr=high, factor=(high / low) ** (1 / 4)))
    np.testing.assert_allclose(list(got.values()), np.geomspace(low, high, 5))  # fastai's slice(low, high)


def test_layer_wise_decay_is_timms():
    timm_optim = pytest.importorskip("timm.optim")
    parts = {f"layer{i}": nn.Linear(3, 3) for i in range(5)}
    model = nn.Sequential(*parts.values())
    model.group_matcher = lambda coarse=False: lambda name: int(name.split(".")[0])
    theirs = timm_optim.param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.75)
    expected = {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]}
    ours = decay_matrices_only(param_groups(**geometric_rates(parts, lr=1.0, factor=1 / 0.75)), 0.1)
    got = {id(p): (group["lr"], group["weight_decay"]) for group in ours for p in group["params"]}
    assert got.keys() == expected.keys() and all(got[k] == pytest.approx(expected[k]) for k in got)
    assert len({g["name"] for g in ours}) == len(ours) == 10


def test_a_frozen_part_is_left_out_and_changes_no_other_rate():
    parts = layers()
    before = rates(geometric_rates(parts, lr=0.1, factor=2.0))
    freeze(parts["layer1"])
    after = rates(geometric_rates(parts, lr=0.1, factor=2.0))
    assert after == {name: lr for name, lr in before.items() if name != "layer1"}


@pytest.mark.parametrize("settings", [{"lr": 0, "factor": 2.0}, {"lr": 0.1, "factor": -1}, {"lr": 0.1, "factor": "2"}])
def test_impossible_rates_are_refused(settings):
    with pytest.raises(ValueError, match="expected a positive number"):
        geometric_rates(layers(), **settings)


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0", "resnet18"])
def test_blocks_partition_the_parameters_in_the_order_of_the_forward_pass(name):
    f = load_backbone(name, pretrained=False, size=37)
    found = blocks(f)
    held = [id(p) for block in found.values() for p in block.parameters()]
    assert held == [id(p) for p in f.parameters()]
    assert all(f.get_submodule(path) is block and type(block) is not nn.Sequential for path, block in found.items())
    assert len(found) > 8
    groups = param_groups(**geometric_rates({**found, "head": nn.Linear(3, 2)}, lr=1.0, factor=1 / 0.75))
    lrs = [g["lr"] for g in groups]
    assert lrs == sorted(lrs) and lrs[-1] == 1 and lrs[-2] == 0.75


def test_blocks_open_plain_sequences_only():
    class Block(nn.Sequential):
        pass

    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Sequential(Block(nn.Linear(3, 3)))), nn.ReLU())
    assert list(blocks(model)) == ["0.0", "0.1.0", "1"]


# --- when --------------------------------------------------------------------------------------------------------


def test_one_more_stage_an_epoch_the_top_first():
    stages = ("stem", "stage1", "stage2")
    assert [gradual(stages, epoch) for epoch in range(1, 7)] == [
        (), ("stage2",), ("stage1", "stage2"), stages, stages, stages,
    ]  # fmt: skip
    assert [gradual(stages, epoch, per_epoch=2) for epoch in (1, 2, 3)] == [(), ("stage1", "stage2"), stages]
    for bad in ({"epoch": 0}, {"epoch": 1, "per_epoch": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            gradual(stages, **bad)


class Stages(nn.Sequential):
    """x (N, 3, 5, 5) -> z (N, 7) in three stages, the lowest with BatchNorm"""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(75, 11))
        self.stage1 = nn.Linear(11, 5)
        self.stage2 = nn.Linear(5, 7)


def test_gradual_unfreezing_of_a_live_optimizer_holds_each_parameter_once_and_keeps_momentum():
    torch.manual_seed(0)
    model, stages = Model(Stages(), LinearHead(7, K)), ("stem", "stage1", "stage2")
    freeze(model.backbone)
    optimizer = torch.optim.SGD(param_groups(head=(model.head, 0.1)), momentum=0.9)
    for epoch in range(1, 6):
        for stage in set(gradual(stages, epoch)) - set(gradual(stages, max(1, epoch - 1))):
            part = unfreeze(model.backbone.get_submodule(stage))
            add_group(optimizer, **{stage: (part, 0.01)})
        momentum = optimizer.state[model.head.weight].get("momentum_buffer") if epoch > 1 else None
        before = {k: v.clone() for k, v in model.state_dict().items()}
        records = fit(model, batches(2), optimizer, epochs=epoch, first_epoch=epoch)
        assert (momentum is None) == (epoch == 1)
        list(records)
        moved = {k.split(".")[1] for k, v in model.backbone.state_dict(prefix="f.").items()
                 if not torch.equal(v, before[k.replace("f.", "backbone.", 1)])}  # fmt: skip
        assert moved == set(gradual(stages, epoch))
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in trainable(model))
    assert [g["name"] for g in optimizer.param_groups] == ["head", "stage2", "stage1", "stem"]


def test_a_parameter_joins_an_optimizer_once_by_identity_not_by_value():
    model = plain_model()
    first, twin = nn.Linear(3, 3), nn.Linear(3, 3)
    twin.load_state_dict(first.state_dict())
    optimizer = torch.optim.SGD(param_groups(head=(model.head, 0.1), first=(first, 0.1)))
    add_group(optimizer, twin=(twin, 0.1))
    assert len(optimizer.param_groups) == 3
    with pytest.raises(ValueError, match="already holds a parameter of 'again'"):
        add_group(optimizer, fresh=(TinyBackbone(), 0.1), again=(model.head, 0.1))
    with pytest.raises(ValueError, match="'part' is frozen"):
        add_group(optimizer, part=(freeze(TinyBackbone()), 0.1))
    assert len(optimizer.param_groups) == 3


def test_a_group_that_joined_follows_the_schedule_from_its_own_rate():
    model = plain_model()
    freeze(model.backbone)
    optimizer = torch.optim.SGD(param_groups(head=(model.head, 0.1)))
    list(fit(model, batches(2, n=N), optimizer, epochs=1, schedule=lambda step: 0.5))
    add_group(optimizer, backbone=(unfreeze(model.backbone), 0.01))
    list(fit(model, batches(2, n=N), optimizer, epochs=2, first_epoch=2, schedule=lambda step: 0.25))
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.0025])


def tied():
    """A model whose f and g share a matrix, and a batch for it"""
    f = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 3), torch.nn.Linear(3, 3))
    model = Model(f, LinearHead(3, 3))
    f[2].weight = model.head.weight
    return model, torch.randn(5, 3, 5, 5), torch.tensor([0, 1, 2, 0, 1])


def test_freezing_one_of_two_parts_that_share_a_tensor_says_that_it_froze_both():
    for one, other, names in (("head", "backbone", "backbone.2.weight"), ("backbone", "head", "backbone.2.weight")):
        model, x, y = tied()
        freeze(getattr(model, one))
        optimizer = torch.optim.SGD(trainable(getattr(model, other)), lr=0.1)
        with pytest.warns(UserWarning, match=rf"{names} is one tensor in f and in g.*untie\(model\)"):
            list(fit(model, [(x, y)], optimizer, epochs=1))
        model = untie(tied()[0])
        freeze(getattr(model, one))
        list(fit(model, [(x, y)], torch.optim.SGD(trainable(getattr(model, other)), lr=0.1), epochs=1))
    model, x, y = tied()
    freeze(model.head)
    freeze(model.backbone[2])  # both: nothing is said
    list(fit(model, [(x, y)], torch.optim.SGD(trainable(model.backbone), lr=0.1), epochs=1))


def test_a_tensor_that_a_frozen_f_shares_with_g_is_refused_until_it_is_untied():
    model, x, y = tied()
    f = model.backbone
    freeze(model.backbone)
    unfreeze(model.head)
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    with pytest.raises(ValueError, match=r"is one tensor in the frozen f and in g.*untie\(model\)"):
        fit(model, [(x, y)], optimizer, epochs=1)
    untie(model)
    freeze(model.backbone)
    before = f[2].weight.clone()
    list(fit(model, [(x, y)], torch.optim.SGD(trainable(model.head), lr=0.1), epochs=1))
    assert torch.equal(before, f[2].weight) and not torch.equal(before, model.head.weight)
