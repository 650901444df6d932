"""Co-Tuning against naive loops, limits, scikit-learn, and inside fit."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from sftlib import losses
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone, load_source_head
from sftlib.losses.co_tuning import _best_scale, _logistic_regression
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


def one_sided():
    """N pictures whose source class tells their target class: sources 0-3 class 0, 4-7 class 1, 8-10 class 2"""
    source = torch.arange(5 * S) % S
    return F.one_hot(source, S).double(), (source // 4).clamp(max=2)


def test_both_relationships_agree_where_source_classes_tell_the_target():
    part = one_sided()
    direct = losses.category_relationship(*part, num_classes=K)
    bayes = losses.bayes_relationship(part, part, num_classes=K)
    assert torch.allclose(direct, bayes, atol=1e-3)
    assert torch.allclose(direct[0, :4], torch.full((4,), 0.25, dtype=torch.float64))


def test_pictures_that_all_look_alike_give_each_class_their_marginal():
    """With as many pictures of each class, W learns nothing and p(y_s | y_t) = p(y_s)."""
    p = draw(1, S).softmax(1).expand(7 * K, S)
    part = (p, torch.arange(7 * K) % K)
    assert torch.allclose(losses.bayes_relationship(part, part, num_classes=K), p[:K], atol=1e-6)


def test_bayes_relationship_satisfies_bayes_rule_with_a_fit_by_scikit_learn(case):
    logits, y, _ = case
    p, q = (2 * logits).softmax(1), (2 * draw(N, S, seed=3)).softmax(1)
    got = losses.bayes_relationship((p, y), (q, y), num_classes=K, strengths=(10.0,))
    W = LogisticRegression(C=10.0, fit_intercept=False, tol=1e-10, max_iter=5000).fit(p.numpy(), y.numpy()).coef_
    val = torch.from_numpy(q.numpy() @ W.T)
    grid = torch.logspace(-3, 3, 6001, dtype=torch.float64)
    t = grid[torch.stack([F.cross_entropy(s * val, y) for s in grid]).argmin()]
    joint = (t * torch.from_numpy(W)).softmax(0) * torch.cat([p, q]).mean(0)
    assert torch.allclose(got, joint / joint.sum(1, keepdim=True), atol=1e-4)
    assert torch.allclose(got.sum(1), torch.ones(K, dtype=torch.float64))


def test_logistic_regression_is_at_a_stationary_point_and_the_scale_at_the_best(case):
    logits, y, _ = case
    p = logits.softmax(1)
    W = _logistic_regression(p, y, K, 3.0).requires_grad_()
    objective = F.cross_entropy(p @ W.T, y, reduction="sum") + W.square().sum() / 6
    assert torch.autograd.grad(objective, W)[0].abs().max() < 1e-3
    found = 5.0 * draw(N, K, seed=4)
    t = _best_scale(found, y)
    best = F.cross_entropy(t * found, y)
    assert best <= min(F.cross_entropy(s * found, y) for s in torch.linspace(1e-3, 5, 1001, dtype=torch.float64)) + 1e-9


def test_the_strength_with_the_best_validation_accuracy_is_taken(case):
    logits, y, _ = case
    p = (3 * logits).softmax(1)
    weak = losses.bayes_relationship((p, y), (p, y), num_classes=K, strengths=(1e-6,))
    both = losses.bayes_relationship((p, y), (p, y), num_classes=K, strengths=(1e-6, 1e3))
    strong = losses.bayes_relationship((p, y), (p, y), num_classes=K, strengths=(1e3,))
    assert torch.equal(both, strong) and not torch.allclose(weak, strong, atol=0.01)


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
