"""The four modes of BatchNorm, on EfficientNet-Lite0 with momentum and weight decay."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import K, TinyBackbone, tiny_model
from torch import nn

from sftlib.adaptation import (
    eval_stats_frozen_affine,
    eval_stats_train_affine,
    following,
    freeze,
    in_train_mode,
    is_frozen,
    train_stats_frozen_affine,
    train_stats_train_affine,
    trainable,
    unfreeze,
)
from sftlib.backbones import load_backbone
from sftlib.model import LinearHead, Model
from sftlib.training import train_step

MODES = [  # function, statistics move, affine moves
    (train_stats_train_affine, True, True),
    (eval_stats_train_affine, False, True),
    (eval_stats_frozen_affine, False, False),
    (train_stats_frozen_affine, True, False),
]


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet_lite0", size=37)


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def moved_after_a_step(model):
    """-> for statistics, affine and the other weights of the backbone: whether its tensors moved, {True} if all did"""
    norms = norms_of(model.backbone)
    kinds = {
        "statistics": [t for n in norms for t in (n.running_mean, n.running_var, n.num_batches_tracked)],
        "affine": [p for n in norms for p in (n.weight, n.bias)],
        "other": [m.weight for m in model.backbone.modules() if isinstance(m, nn.Conv2d)],
    }
    before = {kind: [t.detach().clone() for t in tensors] for kind, tensors in kinds.items()}
    optimizer = torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9, weight_decay=0.1)
    g = torch.Generator().manual_seed(1)
    model.train()
    x, y = torch.randn(5, 3, 37, 37, generator=g), torch.randint(K, (5,), generator=g)
    train_step(model, x, y, optimizer, task_loss=F.cross_entropy)
    return {k: {not torch.equal(a, b) for a, b in zip(before[k], kinds[k], strict=True)} for k in kinds}


@pytest.mark.parametrize("through", ["itself", "deepcopy", "pickle"])
@pytest.mark.parametrize("inside", ["trainable", "frozen"])
@pytest.mark.parametrize("mode,statistics,affine", MODES)
def test_mode_says_what_moves_after_later_train_calls_and_in_copies(lite0, mode, statistics, affine, inside, through):
    backbone = copy.deepcopy(lite0)
    if inside == "frozen":
        freeze(backbone)
    model = Model(mode(backbone), LinearHead(1280, K))
    model.train()
    model.eval()
    if through != "itself":
        model = copy.deepcopy(model) if through == "deepcopy" else pickle.loads(pickle.dumps(model))
    expected = {"statistics": {statistics}, "affine": {affine}, "other": {inside == "trainable"}}
    assert moved_after_a_step(model) == expected
    model.eval()
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("mode,statistics,_", MODES)
def test_normalisation_by_hand(mode, statistics, _):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    for p in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(p, 0.5, 2.0)
    m, v = norm.running_mean.clone(), norm.running_var.clone()
    x = 3 * torch.randn(7, 5, 3, 2) + 1
    assert mode(norm) is norm
    y = norm.train()(x)
    if statistics:
        flat = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, 0.9 * m + 0.1 * flat.mean(1))
        torch.testing.assert_close(norm.running_var, 0.9 * v + 0.1 * flat.var(1))
        m, v = flat.mean(1), flat.var(1, correction=0)
    column = (slice(None), None, None)
    expected = norm.weight[column] * (x - m[column]) / (v[column] + norm.eps).sqrt() + norm.bias[column]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("mode", [row[0] for row in MODES])
def test_evaluation_uses_the_running_statistics_in_every_mode(lite0, mode):
    x = torch.randn(3, 3, 37, 37, generator=torch.Generator().manual_seed(0))
    other = mode(copy.deepcopy(lite0)).train().eval()
    assert torch.equal(other(x), lite0(x))


def test_the_last_call_holds():
    model = tiny_model()
    freeze(train_stats_train_affine(model.backbone))
    assert is_frozen(model.backbone)
    eval_stats_frozen_affine(model.backbone)
    unfreeze(model.backbone)
    assert model.train().backbone.norm.training and len(trainable(model.backbone)) == 3
    for mode, statistics, affine in MODES + MODES[::-1]:
        mode(model)
        norm = model.train().backbone.norm
        assert (norm.training, norm.weight.requires_grad, norm.bias.requires_grad) == (statistics, affine, affine)


def test_other_modules_keep_their_mode_and_parameters():
    backbone = TinyBackbone().train()
    backbone.conv.requires_grad_(False)
    for mode, *_ in MODES:
        mode(backbone)
        assert backbone.training and backbone.drop.training and not backbone.conv.weight.requires_grad


def test_a_module_without_batchnorm_or_without_statistics_is_refused():
    for mode, statistics, _ in MODES:
        with pytest.raises(ValueError, match="Linear has no BatchNorm"):
            mode(nn.Linear(5, 3))
        if not statistics:
            with pytest.raises(ValueError, match="no running statistics"):
                mode(nn.BatchNorm2d(3, track_running_stats=False))


def test_what_would_follow_the_batch_in_training_is_found_whatever_the_mode_and_no_mode_changes():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout(), nn.Sequential(nn.BatchNorm2d(5)))
    freeze(model[3])
    model[1].eval()
    modes = [m.training for m in model.modules()]
    assert following(model) == ["1"] and [name for name, _ in in_train_mode(model)] == ["", "0", "1", "2"]
    assert [m.training for m in model.modules()] == modes
