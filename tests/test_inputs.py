"""Arrays are taken wherever tensors are, and a number that cannot be meant is refused with its name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sftlib import adaptation, features, losses, schedules, selection
from sftlib.inputs import classes, finite, numbers, tensor, vectors, whole

N, D, K = 23, 7, 3
NAN, INF = math.nan, math.inf


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Z, Y, W, P = draw(N, D), torch.arange(N) % K, draw(K, D, seed=1), draw(N, K, seed=2).softmax(1)
STATE = nn.Linear(5, 3).state_dict()
BROKEN = {name: v * NAN for name, v in STATE.items()}
STACK = {str(i): nn.Linear(2, 2) for i in range(5)}

POSITIVE = {
    "l2": lambda v: features.linear_probe(Z, Y, l2=v),
    "lr": lambda v: features.sgd_probe(Z, Y, lr=v, epochs=1),
    "eps": lambda v: selection.trans_rate(Z, Y, eps=v),
    "temperature": lambda v: losses.supervised_contrastive(Z, Y, temperature=v),
    "scale": lambda v: losses.cosface(Z, Y, W, scale=v, margin=0.3),
    "rate": lambda v: losses.CenterLoss(K, D, rate=v),
    "max_weight": lambda v: losses.gradient_norm_ratio("f.weight", max_weight=v),
    "alpha": lambda v: adaptation.wrap_lora(nn.Linear(5, 3), rank=1, alpha=v),
    "factor": lambda v: adaptation.geometric_rates({"a": nn.Linear(5, 3)}, lr=1e-3, factor=v),
    "lr ": lambda v: adaptation.geometric_rates({"a": nn.Linear(5, 3)}, lr=v, factor=2.6),
    "learning rate of group 'a'": lambda v: adaptation.param_groups(a=(nn.Linear(5, 3), v)),
}
NOT_NEGATIVE = {
    "feature_weight": lambda v: losses.fixed_weight(v),
    "alpha": lambda v: losses.GradNorm("f.weight", alpha=v),
    "margin": lambda v: losses.arcface(Z, Y, W, scale=16, margin=v),
    "momentum": lambda v: losses.RunningPrototypes(K, D, momentum=v),
    "repulsion": lambda v: losses.LearnedPrototypes(K, D, repulsion=v),
    "final": lambda v: schedules.warmup_cosine(11, final=v),
    "a": lambda v: adaptation.interpolate(STATE, STATE, v),
    "weight_decay": lambda v: adaptation.decay_matrices_only([{"params": [], "name": "a"}], v),
}
WHOLE = {
    "k": lambda v: features.knn_accuracy(Z, Y, k=v),
    "d": lambda v: features.pca(Z, v),
    "epochs": lambda v: features.sgd_probe(Z, Y, epochs=v),
    "batch_size": lambda v: features.Cached(features=Z, labels=Y, batch_size=v),
    "components": lambda v: selection.n_leep(Z, Y, components=v),
    "folds": lambda v: selection.probe_accuracy(Z, Y, folds=v),
    "num_classes": lambda v: losses.simplex_prototypes(v, D),
    "feature_dim": lambda v: losses.LearnedPrototypes(K, v),
    "k ": lambda v: losses.batch_spectral_shrinkage(Z, k=v),
    "rank": lambda v: adaptation.wrap_lora(nn.Linear(5, 3), rank=v, alpha=1.0),
    "epoch": lambda v: adaptation.gradual(("stem",), v),
    "steps": lambda v: schedules.warmup_cosine(v),
    "step": lambda v: schedules.warmup_cosine(11)(v - 1 if v == 0 and not isinstance(v, bool) else v),
}


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("value", [0, -1, NAN, INF, True, "3", [1.0]])
def test_what_must_be_positive_is(name, value):
    with pytest.raises(ValueError, match=f"got {name.strip()}=.*; expected"):
        POSITIVE[name](value)


@pytest.mark.parametrize("name", NOT_NEGATIVE)
@pytest.mark.parametrize("value", [-1, NAN, INF, True, "3", None])
def test_what_must_not_be_negative_is_not(name, value):
    with pytest.raises(ValueError, match=f"got {name}=.*; expected"):
        NOT_NEGATIVE[name](value)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [0, -1, 1.5, NAN, True, "3", [1]])
def test_what_counts_is_a_whole_number(name, value):
    with pytest.raises(ValueError, match=f"got {name.strip()}=.*; expected a whole number"):
        WHOLE[name](value)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: features.linear_probe(Z, torch.cat([Y[:-1], torch.tensor([10**7])])), "label 10000000 among 23 rows"),
        (lambda: features.linear_probe(Z, Y, num_classes=10**9), "too many for memory"),
        (lambda: features.knn_accuracy(torch.zeros(N, D), Y, k=1), "all 23 features point one way"),
        (lambda: features.linear_probe(Z.double() * 1e200, Y), "below 3e38"),
        (lambda: losses.co_tuning(Z, Y, torch.ones(K, D)), "rows of probabilities"),
        (lambda: losses.cosine_prototype(Z, Y, W.long()), "floating"),
        (lambda: losses.batch_spectral_shrinkage(Z / 0, k=1), "diverged"),
        (lambda: adaptation.interpolate(STATE, BROKEN, 0.5), "NaN or infinity in 'weight'"),
        (lambda: adaptation.interpolate(STATE, STATE, 2), "at most 1"),
        (lambda: adaptation.param_groups(a=nn.Linear(5, 3)), r"expected \(module, learning rate\)"),
        (lambda: adaptation.geometric_rates(STACK, lr=1.0, factor=1e200), "above 0"),
        (lambda: selection.ranking_table({"a": np.zeros((0, 5))}, np.zeros((0, 5))), "one task at least"),
    ],
)  # fmt: skip
def test_other_nonsense_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_probe_that_diverged_says_so(lr):
    with pytest.raises(FloatingPointError, match="lower the rate"):
        features.sgd_probe(Z, Y, lr=lr, epochs=3)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_statistics_spoiled_by_one_batch_come_back(bad):
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    adaptation.recompute_batchnorm(model, [(draw(11, 5), Y[:11])])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="NaN or infinite"):
        adaptation.recompute_batchnorm(model, [(draw(11, 5), Y[:11]), (torch.full((7, 5), bad), Y[:7])])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


OF_FEATURES = {
    **{name: getattr(selection, name) for name in ("h_score", "log_me", "trans_rate", "gbc", "parc", "probe_accuracy")},
    "linear_probe": lambda z, y: features.linear_probe(z, y).weight,
    "knn_accuracy": lambda z, y: features.knn_accuracy(z, y, k=2),
    "pca": lambda z, y: features.pca(z, 2),
    "supervised_contrastive": lambda z, y: losses.supervised_contrastive(z, y, temperature=0.1),
    "cosine_prototype": lambda z, y: losses.cosine_prototype(z, y, W.numpy() if isinstance(z, np.ndarray) else W),
    "center": lambda z, y: losses.center(z, y, W),
    "arcface": lambda z, y: losses.arcface(z, y, W, scale=16, margin=0.3),
    "co_tuning": lambda z, y: losses.co_tuning(z, y, W.softmax(1)),
}


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("labels", [np.int64, np.int32, np.uint8, np.uint16, ">i4"])
def test_arrays_give_what_tensors_give(name, labels):
    z = Z.numpy()
    z.setflags(write=False)
    got = OF_FEATURES[name](z, Y.numpy().astype(labels))
    assert torch.equal(torch.as_tensor(got), torch.as_tensor(OF_FEATURES[name](Z, Y)))


def test_a_label_in_another_kind_of_integer_selects_no_mask():
    assert torch.equal(losses.co_tuning(Z, Y.to(torch.uint8), W.softmax(1)), losses.co_tuning(Z, Y, W.softmax(1)))


def test_arrays_become_tensors_and_what_is_no_number_is_refused():
    t = torch.ones(3, requires_grad=True)
    assert tensor(t) is t  # its graph stays
    assert torch.equal(tensor(np.arange(7, dtype=">i4")[::-1]), torch.arange(7, dtype=torch.int32).flip(0))
    for bad in ("abc", None, [1, "a"], [[1], [1, 2]], np.array([1j]), np.ma.masked_array([1, 2], [True, False]), {}):
        with pytest.raises(ValueError, match="got probabilities that are a"):
            tensor(bad, "probabilities")


def test_the_bounds_are_in_the_words():
    assert (finite("a", np.float32(0.5), least=0), finite("a", torch.tensor(2)), whole("n", np.int8(3))) == (
        0.5,
        2.0,
        3,
    )
    with pytest.raises(ValueError, match=r"got a=2; expected a finite number of at least 0 and below 1: take less"):
        finite("a", 2, least=0, below=1, remedy="take less")
    with pytest.raises(ValueError, match=r"got n=5; expected a whole number from 1 to 4"):
        whole("n", 5, most=4)
    with pytest.raises(ValueError, match=r"rows \[3, 5\]; expected finite"):
        vectors(torch.where(torch.tensor([[0, 0, 0, 1, 0, 1, 0]]).T.bool(), NAN, Z[:7]))
    with pytest.raises(ValueError, match=r"one integer label a row: y.flatten"):
        classes(Y[:, None], N)
    with pytest.raises(ValueError, match="n at least 2"):
        numbers([1.0], least=2)
