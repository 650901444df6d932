"""LoRA against its formula: W + α/r · B A, put into torch's own functions."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import K, tiny_model
from torch import nn

from sftlib.adaptation import LoRA, freeze, is_frozen, merge_lora, param_groups, trainable, unfreeze, unmerge_lora
from sftlib.adaptation import wrap_lora as wrap
from sftlib.backbones import load_backbone
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision
from sftlib.training import train_step

LAYERS = {
    "linear": (lambda: nn.Linear(11, 7), (5, 11)),
    "linear without bias, on tokens": (lambda: nn.Linear(11, 7, bias=False), (2, 5, 11)),
    "head": (lambda: LinearHead(11, 7), (5, 11)),
    "convolution": (lambda: nn.Conv2d(5, 7, 3), (2, 5, 11, 13)),
    "convolution 1 x 1 without bias": (lambda: nn.Conv2d(5, 7, 1, bias=False), (2, 5, 11, 13)),
    "strides and dilation": (
        lambda: nn.Conv2d(5, 7, (3, 5), stride=(2, 1), padding=2, dilation=(1, 2)),
        (2, 5, 11, 13),
    ),
    "reflected rim": (lambda: nn.Conv2d(5, 7, 3, padding=1, padding_mode="reflect"), (2, 5, 11, 13)),
    "two groups": (lambda: nn.Conv2d(6, 10, 3, groups=2), (2, 6, 11, 13)),
    "depthwise": (lambda: nn.Conv2d(5, 5, 3, groups=5, padding=1), (2, 5, 11, 13)),
}


def wrapped(name, rank=2, alpha=3.0, *, moved=True):
    """-> the plain layer, its LoRA with B as after training, a batch x"""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    plain = build()
    lora = wrap(copy.deepcopy(plain), rank=rank, alpha=alpha)
    if moved:
        nn.init.normal_(lora.B)
    return plain, lora, torch.randn(shape)


def with_delta(plain, lora):
    """A plain layer with the weight W + α/r · Σ_k B_ik A_k…, summed one rank after the other"""
    result = copy.deepcopy(plain)
    with torch.no_grad():
        for k in range(lora.rank):
            outer = torch.tensordot(lora.B.flatten(1)[:, k], lora.A[k], dims=0)
            result.weight += 3.0 / lora.rank * outer
    return result


@pytest.mark.parametrize("name", LAYERS)
def test_step_0_is_the_layer_itself_to_the_bit(name):
    plain, lora, x = wrapped(name, moved=False)
    assert torch.equal(lora(x), plain(x))
    assert lora.A.abs().min() > 0 and lora.A.std() > 0


@pytest.mark.parametrize("name", LAYERS)
def test_output_is_that_of_the_layer_with_the_moved_weight(name):
    plain, lora, x = wrapped(name)
    expected = with_delta(plain, lora)
    assert (expected(x) - plain(x)).abs().max() > 0.1
    torch.testing.assert_close(lora(x), expected(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lora.weight, expected.weight)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_chain_rule(name):
    plain, lora, x = wrapped(name)
    moved = with_delta(plain, lora)
    moved(x).square().sum().backward()
    lora(x).square().sum().backward()
    G, s = moved.weight.grad.flatten(1), 3.0 / lora.rank  # dL/dW
    A, B = lora.A.detach().flatten(1), lora.B.detach().flatten(1)
    torch.testing.assert_close(lora.A.grad.flatten(1), s * B.T @ G, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(lora.B.grad.flatten(1), s * G @ A.T, rtol=1e-3, atol=1e-3)
    assert all(p.grad is None for p in lora.base.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_merged_gives_the_same_and_unmerged_the_former_bits(name):
    plain, lora, x = wrapped(name)
    before, state = lora(x), copy.deepcopy(lora.state_dict())
    merge_lora(merge_lora(lora))
    assert not trainable(lora) and not torch.equal(lora.merged, plain.weight)
    torch.testing.assert_close(lora(x), before, rtol=1e-4, atol=1e-4)
    unmerge_lora(unmerge_lora(lora))
    assert torch.equal(lora(x), before) and torch.equal(lora.base.weight, plain.weight)
    assert all(torch.equal(state[k], v) for k, v in lora.state_dict().items())
    assert {id(p) for p in trainable(lora)} == {id(lora.A), id(lora.B)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_moves_by_a_matrix_of_that_rank(name, rank):
    _, lora, _ = wrapped(name, rank=rank)
    assert torch.linalg.matrix_rank(lora.delta().detach().double().flatten(1), rtol=1e-5) == rank
    assert sum(p.numel() for p in trainable(lora)) == rank * sum(lora.delta().flatten(1).shape)


def test_the_layer_alone_freezes_its_base():
    lora = LoRA(nn.Linear(11, 7), 2, 3.0)
    assert is_frozen(lora.base) and {id(p) for p in trainable(lora)} == {id(lora.A), id(lora.B)}


def test_scale_is_alpha_over_rank():
    torch.manual_seed(0)
    first, second = (wrap(nn.Linear(11, 7), rank=2, alpha=alpha) for alpha in (2.0, 6.0))
    second.load_state_dict(first.state_dict())
    nn.init.normal_(first.B)
    second.B.data.copy_(first.B)
    torch.testing.assert_close(second.delta(), 3 * first.delta())


# --- inside a model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("efficientnet_lite0", size=37)


def some_steps(model, steps=2):
    g = torch.Generator().manual_seed(1)
    groups = param_groups(backbone=(model.backbone, 0.1), head=(model.head, 0.1))
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
    model.train()
    for _ in range(steps):
        x, y = torch.randn(5, 3, 37, 37, generator=g), torch.randint(K, (5,), generator=g)
        train_step(model, x, y, optimizer, task_loss=F.cross_entropy)


def test_a_whole_network_is_wrapped_exactly_and_only_A_and_B_train(lite0):
    x = torch.randn(2, 3, 37, 37, generator=torch.Generator().manual_seed(0))
    layers = [m for m in lite0.modules() if isinstance(m, nn.Conv2d)]
    model = Model(wrap(copy.deepcopy(lite0), rank=3, alpha=3.0), LinearHead(1280, K))
    model.eval()
    assert torch.equal(model.backbone(x), lite0(x))
    assert sum(isinstance(m, LoRA) for m in model.modules()) == len(layers)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    some_steps(model)
    after = model.backbone.state_dict()
    low_rank = {k for k in after if k.endswith((".A", ".B"))}
    assert len(low_rank) == 2 * len(layers) == len(trainable(model.backbone))
    assert all(torch.equal(before[k], after[k]) != (k in low_rank) for k in after)
    model.eval()
    unmerged = model.backbone(x)
    torch.testing.assert_close(merge_lora(model.backbone)(x), unmerged, rtol=1e-3, atol=1e-3)
    assert (unmerged - lite0(x)).abs().max() > 0.01


def test_names_and_bits_of_the_pretrained_weights_stay(lite0):
    model = wrap(copy.deepcopy(lite0), rank=2, alpha=1.0)
    state = {k.replace(".base.", "."): v for k, v in model.state_dict().items() if not k.endswith((".A", ".B"))}
    assert state.keys() == lite0.state_dict().keys()
    assert all(torch.equal(v, lite0.state_dict()[k]) for k, v in state.items())


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("through", ["deepcopy", "pickle", "torch.save", "state dict"])
def test_copies_compute_the_same_and_stand_alone(through, merged):
    def build():
        return Model(wrap(tiny_model().backbone, rank=2, alpha=3.0), LinearHead(7, K)).eval()

    model, x = build(), torch.randn(5, 3, 11, 13)
    nn.init.normal_(model.backbone.conv.B)
    if merged:
        merge_lora(model)
    before = model(x)
    if through == "deepcopy":
        other = copy.deepcopy(model)
    elif through == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif through == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = merge_lora(build()) if merged else build()  # what was merged there is out of date
        other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), before, rtol=1e-5, atol=1e-5)
    nn.init.zeros_(unmerge_lora(other).backbone.conv.B)
    assert torch.equal(model(x), before) and is_frozen(other.backbone.conv.base)
    assert {id(p) for p in trainable(other.backbone)} == {id(other.backbone.conv.A), id(other.backbone.conv.B)}


def test_freeze_holds_A_and_B_and_unfreeze_frees_W_as_well():
    model = wrap(tiny_model(), rank=2, alpha=1.0)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "backbone.conv.A", "backbone.conv.B", "head.A", "head.B",
    ]  # fmt: skip
    freeze(model.backbone)
    assert is_frozen(model.backbone) and not is_frozen(model.head)
    merge_lora(model)
    unmerge_lora(model)
    assert is_frozen(model.backbone) and len(trainable(model.head)) == 2
    unfreeze(model.backbone)
    assert model.backbone.conv.base.weight.requires_grad and model.backbone.norm.training
    assert len(trainable(model.backbone)) == 5


def test_everything_else_is_frozen_with_its_statistics():
    backbone = wrap(tiny_model().backbone, rank=2, alpha=1.0).train()
    before = backbone.norm.running_mean.clone()
    backbone(torch.randn(5, 3, 11, 13)).sum().backward()
    assert is_frozen(backbone.norm) and torch.equal(before, backbone.norm.running_mean)


def test_a_layer_used_twice_is_wrapped_once():
    layer = nn.Linear(5, 5)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(3, 5)
    before = model(x)
    wrap(model, rank=2, alpha=1.0)
    assert model[0] is model[2] and isinstance(model[0], LoRA) and torch.equal(model(x), before)
    assert len(trainable(model)) == 2


def test_attention_reads_the_moved_weight_of_its_projection():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.randn(2, 5, 6)
    before = attention(x, x, x)[0]
    wrap(attention, rank=2, alpha=2.0)
    torch.testing.assert_close(attention(x, x, x)[0], before)
    nn.init.normal_(attention.out_proj.B)
    heads = torch.linalg.lstsq(attention.out_proj.base.weight, (before - attention.out_proj.bias).flatten(0, 1).T)
    expected = attention.out_proj(heads.solution.T).view_as(x)
    torch.testing.assert_close(attention(x, x, x)[0], expected, rtol=1e-3, atol=1e-3)
    attention(x, x, x)[0].sum().backward()
    assert attention.out_proj.A.grad.abs().sum() > 0


def test_half_precision_and_channels_last_change_rounding_only():
    torch.manual_seed(0)
    model = wrap(tiny_model().backbone.eval(), rank=2, alpha=2.0)
    nn.init.normal_(model.conv.B)
    x = torch.randn(5, 3, 11, 13)
    exact, precision = model(x), Precision(torch.bfloat16, True)
    precision.place(model)
    with precision.autocast("cpu"):
        rounded = model(precision.place(x)).float()
    assert (rounded - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("settings,message", [
    ({"rank": 0, "alpha": 1.0}, "rank=0"), ({"rank": 2.0, "alpha": 1.0}, "rank=2.0"),
    ({"rank": True, "alpha": 1.0}, "rank=True"), ({"rank": 2, "alpha": 0}, "alpha=0"),
    ({"rank": 2, "alpha": float("nan")}, "alpha=nan"),
])  # fmt: skip
def test_impossible_settings_are_refused_before_anything_changes(settings, message):
    layer = nn.Linear(5, 3)
    with pytest.raises(ValueError, match=message):
        wrap(layer, **settings)
    assert layer.weight.requires_grad


def test_what_cannot_be_wrapped_or_merged_is_refused():
    with pytest.raises(ValueError, match="inside already"):
        wrap(wrap(tiny_model(), rank=2, alpha=1.0), rank=2, alpha=1.0)
    with pytest.raises(ValueError, match="no Linear and no Conv2d"):
        wrap(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), rank=2, alpha=1.0)
    with pytest.raises(ValueError, match="no LoRA inside"):
        merge_lora(nn.Linear(5, 3))
    with pytest.raises(ValueError, match="got a str"):
        wrap("head", rank=2, alpha=1.0)
