"""Co-Tuning against naive loops, limits, scikit-learn, and inside fit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sftlib import losses
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone, load_source_head
from sftlib.model import LinearHead, Model
from sftlib.training import Step, fit

N, S, K = 23, 11, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def case():
    """source logits (N, S), labels (N,) of all K classes, relationship (K, S)"""
    return draw(N, S), torch.arange(N) % K, draw(K, S, seed=1).softmax(1)


def test_loss_is_the_naive_double_loop(case):
    logits, y, relationship = case
    total = 0.0
    for i in range(N):
        denominator = sum(math.exp(v) for v in logits[i].tolist())
        for s in range(S):
            total -= relationship[y[i], s].item() * math.log(math.exp(logits[i, s].item()) / denominator)
    assert losses.co_tuning(*case).item() == pytest.approx(total / N, rel=1e-12)


def test_one_hot_relationship_is_cross_entropy_on_that_source_class(case):
    logits, y, _ = case
    classes = torch.tensor([7, 2, 5])
    got = losses.co_tuning(logits, y, F.one_hot(classes, S).double())
    assert got.item() == pytest.approx(F.cross_entropy(logits, classes[y]).item(), rel=1e-12)


def test_zero_logits_cost_log_s_and_logits_of_the_relationship_its_entropy(case):
    _, y, relationship = case
    assert losses.co_tuning(torch.zeros(N, S), y, relationship).item() == pytest.approx(math.log(S))
    entropy = -(relationship * relationship.log()).sum(1)[y].mean()
    assert losses.co_tuning(relationship.log()[y], y, relationship).item() == pytest.approx(entropy.item())


def test_gradient_is_softmax_minus_relationship_and_agrees_with_finite_differences(case):
    logits, y, relationship = case
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.co_tuning(logits, y, relationship), logits)
    assert torch.allclose(gradient, (logits.softmax(1) - relationship[y]) / N)
    assert torch.autograd.gradcheck(lambda v: losses.co_tuning(v, y, relationship), logits)


def test_order_of_the_batch_does_not_matter_and_bf16_is_computed_in_float32(case):
    logits, y, relationship = case
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(losses.co_tuning(logits[order], y[order], relationship), losses.co_tuning(*case))
    low = losses.co_tuning(logits.bfloat16(), y, relationship.float())
    assert low.dtype is torch.float32
    assert low.item() == pytest.approx(losses.co_tuning(logits.bfloat16().double(), y, relationship).item(), rel=1e-5)


# ------------------------------------------------------------------------------------------- relationships


def test_category_relationship_is_the_mean_of_each_class(case):
    logits, y, _ = case
    p = logits.softmax(1)
    got = losses.category_relationship(p.float(), y, num_classes=K)
    for k in range(K):
        rows = [p[i] for i in range(N) if y[i] == k]
        assert torch.allclose(got[k].double(), sum(rows) / len(rows), atol=1e-6)
    assert got.dtype is torch.float32 and torch.allclose(got.sum(1), torch.ones(K))


# ------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda v, y, r: losses.co_tuning(v, y, r[:, :-1]), "a column a source class"),
        (lambda v, y, r: losses.co_tuning(v, y + 1, r), "labels from 1 to 3"),
        (lambda v, y, r: losses.CoTuning(nn.Identity(), v), "rows of probabilities"),
        (lambda v, y, r: losses.category_relationship(v, y, num_classes=K), "softmax"),
        (lambda v, y, r: losses.category_relationship(v.softmax(1), y, num_classes=K + 1), "every target class"),
        (lambda v, y, r: losses.category_relationship(v.softmax(1), y, num_classes=K - 1), "every target class"),
    ],
)
def test_wrong_arguments_are_named(case, call, words):
    with pytest.raises(ValueError, match=words):
        call(*case)


# ------------------------------------------------------------------------------------------- in fit


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0"])
def test_in_fit_it_is_a_feature_loss_and_source_head_f_and_g_all_learn(name):
    f, (h, reads) = load_backbone(name, size=64), load_source_head(name)
    x = f.preprocess(torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    y = torch.tensor([0, 1, 0, 1, 1])
    with torch.no_grad():
        source = f.source_logits(x)
    relationship = losses.category_relationship(source.softmax(1), y, num_classes=2)
    n = f.stages.index(reads) + 1
    model = Model(nn.Sequential(*f.children())[:n], nn.Sequential(*[*f.children()][n:], LinearHead(f.feature_dim, 2)))
    with torch.no_grad():
        assert torch.allclose(h(model.backbone(x)), source, atol=1e-4)  # the cut is where the head reads
    loss = losses.CoTuning(h, relationship)
    before = {k: p.clone() for k, p in nn.ModuleDict({"m": model, "h": loss}).named_parameters() if p.ndim > 1}
    groups = param_groups(f=(model.backbone, 1e-5), g=(model.head, 1e-5), h=(loss, 1e-5))
    steps = fit(model, [(x, y)], torch.optim.SGD(groups), epochs=1, feature_loss=loss, feature_weight=2.3)
    first = next(r for r in steps if isinstance(r, Step))
    if name == "squeezenet1_1":  # without BatchNorm the training pass sees what the evaluation pass saw
        assert first.feature_loss == pytest.approx(losses.co_tuning(source, y, relationship).item(), rel=1e-4)
    assert first.loss == pytest.approx(first.task_loss + 2.3 * first.feature_loss, rel=1e-6)
    after = dict(nn.ModuleDict({"m": model, "h": loss}).named_parameters())
    assert [k for k, p in before.items() if torch.equal(p, after[k])] == []
