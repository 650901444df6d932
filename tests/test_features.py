"""Cached features: extraction equals the loop, the probe is the optimum, kNN leaves one out."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TinyBackbone
from kinds import conversations, language_model
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from sftlib.adaptation import freeze, train_only, trainable
from sftlib.backbones import load_backbone
from sftlib.batches import rows
from sftlib.datasets import PictureSplit, loader
from sftlib.features import Cached, extract, knn_accuracy, linear_probe, pca, sgd_probe, upper_part
from sftlib.model import LinearHead, Model
from sftlib.runtime import FLOAT32, Precision
from sftlib.training import evaluate, fit


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(N: int, D: int, K: int, *, apart: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of K overlapping classes, at scales and offsets that differ by feature; every class occurs."""
    g = draws(seed)
    y = torch.arange(N) % K
    z = torch.randn(N, D, generator=g) + apart * torch.randn(K, D, generator=g)[y]
    return z * torch.logspace(-1, 1, D) + torch.linspace(-3, 5, D), y


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = draws(7)
    return [(torch.randn(n, 3, 37, 41, generator=g), torch.randint(5, (n,), generator=g)) for n in sizes]


# --- extract ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squeezenet():
    return load_backbone("squeezenet1_1")


def test_extract_equals_the_loop_by_hand(squeezenet):
    loader = batches(5, 5, 3)
    features, labels = extract(squeezenet, loader)
    with torch.no_grad():
        for i, (x, y) in enumerate(loader):
            assert torch.equal(features[5 * i : 5 * i + len(x)], squeezenet(x))
            assert torch.equal(labels[5 * i : 5 * i + len(y)], y)
    assert features.shape == (13, 512) and features.dtype == torch.float32 and labels.dtype == torch.int64


def test_extract_at_a_stage_gives_the_map_that_the_rest_turns_into_z(squeezenet):
    loader = batches(5, 2)
    maps, _ = extract(squeezenet, loader, stage="stage2")
    features, _ = extract(squeezenet, loader)
    assert maps.ndim == 4
    with torch.no_grad():
        torch.testing.assert_close(squeezenet.upper(maps, "stage2"), features, rtol=1e-5, atol=1e-5)


def test_extract_uses_eval_mode_and_leaves_every_module_in_its_own():
    torch.manual_seed(0)
    backbone = TinyBackbone().train()
    backbone.norm.eval()  # as a frozen part would be
    before = copy.deepcopy(backbone.state_dict())
    features, _ = extract(backbone, batches(11))
    with torch.no_grad():
        assert torch.equal(features, copy.deepcopy(backbone).eval()(batches(11)[0][0]))
    assert [m.training for m in (backbone, backbone.conv, backbone.norm, backbone.drop)] == [True, True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_mode_is_restored_after_an_error():
    backbone = TinyBackbone().train()
    with pytest.raises(RuntimeError):
        extract(backbone, [(torch.zeros(2, 5, 7, 7), torch.zeros(2))])
    assert all(m.training for m in backbone.modules())


def test_extracted_features_can_be_trained_on(squeezenet):
    features, labels = extract(squeezenet, batches(5, 2))
    head = LinearHead(512, 5)
    F.cross_entropy(head(features), labels).backward()
    assert head.weight.grad.abs().sum() > 0
    assert not features.is_inference() and not features.requires_grad


@pytest.mark.parametrize("precision,tolerance", [
    (FLOAT32, 0.0), (Precision(torch.float32, True), 1e-5), (Precision(torch.bfloat16, True), 0.03),
])  # fmt: skip
def test_precision_changes_rounding_and_nothing_else(squeezenet, precision, tolerance):
    strides = [p.stride() for p in squeezenet.parameters()]
    loader = batches(3)
    for stage in (None, "stage1"):
        exact, _ = extract(squeezenet, loader, stage=stage)
        rounded, _ = extract(squeezenet, loader, stage=stage, precision=precision)
        assert rounded.dtype == torch.float32 and rounded.is_contiguous()
        assert (rounded - exact).norm() <= tolerance * exact.norm()
    assert [p.stride() for p in squeezenet.parameters()] == strides


def test_extract_refuses_a_whole_model_whose_outputs_are_no_features():
    model = Model(TinyBackbone(), LinearHead(7, 2))
    with pytest.raises(ValueError, match=r"got a Model.*expected its feature extractor, model\.backbone"):
        extract(model, [(torch.randn(3, 3, 5, 5), torch.arange(3) % 2)])


def test_extract_takes_an_extractor_without_parameters():
    features, _ = extract(nn.Flatten(), batches(3))
    assert features.shape == (3, 3 * 37 * 41)


def test_empty_loader_is_refused():
    with pytest.raises(ValueError, match="without a single batch"):
        extract(nn.Flatten(), [])


# --- linear probe ----------------------------------------------------------------------------------------------


def objective(z, y, weight, bias, l2):
    """The documented objective at a head for raw features, computed independently with autograd-able torch."""
    mean, std = z.mean(0), z.std(0, correction=0)
    W, b = weight * std, bias + weight @ mean
    return F.cross_entropy(((z - mean) / std) @ W.T + b, y) + l2 / 2 * W.square().sum() + 0.5e-6 * b.square().sum()


@pytest.mark.parametrize("K,l2", [(2, 1e-2), (3, 1e-3), (5, 1.0)])
def test_probe_is_scikit_learns_solution(K, l2):
    z, y = labelled(211, 13, K)
    head = linear_probe(z, y, l2=l2)
    x = ((z.double() - z.double().mean(0)) / z.double().std(0, correction=0)).numpy()
    C = (2 if K == 2 else 1) / (l2 * len(y))
    oracle = LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(x, y.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(head(z).softmax(1).numpy(), oracle.predict_proba(x), atol=1e-4)


def test_gradient_of_the_documented_objective_vanishes_at_the_probe():
    z, y = labelled(211, 13, 3)
    head = linear_probe(z, y, l2=1e-2)
    parameters = [p.detach().double().requires_grad_() for p in (head.weight, head.bias)]
    loss = objective(z.double(), y, *parameters, 1e-2)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        scale = z.double().std(0, correction=0) if parameter.ndim == 2 else 1  # back to the standardised weights
        assert (gradient / scale).abs().max() < 2e-4


def test_gradient_descent_on_the_same_objective_reaches_the_same_optimum():
    z, y = labelled(89, 5, 3)
    z = z.double()
    l2 = 0.1
    x = (z - z.mean(0)) / z.std(0, correction=0)
    W, b = (
        torch.zeros(3, 5, dtype=torch.double, requires_grad=True),
        torch.zeros(3, dtype=torch.double, requires_grad=True),
    )
    for _ in range(800):
        loss = F.cross_entropy(x @ W.T + b, y) + l2 / 2 * W.square().sum() + 0.5e-6 * b.square().sum()
        with torch.no_grad():
            for p, g in zip((W, b), torch.autograd.grad(loss, (W, b)), strict=True):
                p.sub_(g, alpha=0.5)
    head = linear_probe(z.float(), y, l2=l2)
    torch.testing.assert_close(head(z.float()).double(), x @ W.T + b, rtol=1e-4, atol=1e-4)


def test_standardisation_is_folded_into_the_head():
    z, y = labelled(97, 7, 3)
    x = (z - z.mean(0)) / z.std(0, correction=0)
    on_raw, on_standardised = linear_probe(z, y), linear_probe(x, y)
    torch.testing.assert_close(on_raw(z), on_standardised(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_raw.weight, on_standardised.weight / z.std(0, correction=0), rtol=1e-3, atol=1e-3)


def test_probe_does_not_see_scale_and_offset_of_features():
    z, y = labelled(97, 7, 3)
    head, moved = linear_probe(z, y), linear_probe(z * 8 - 3, y)
    torch.testing.assert_close(head(z), moved(z * 8 - 3), rtol=1e-3, atol=1e-3)


def test_permuted_rows_give_the_same_probe_and_permuted_classes_the_permuted_one():
    z, y = labelled(97, 7, 3)
    order = torch.randperm(97, generator=draws())
    head = linear_probe(z, y)
    torch.testing.assert_close(linear_probe(z[order], y[order]).weight, head.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(linear_probe(z, (y + 1) % 3).weight[[1, 2, 0]], head.weight, rtol=1e-3, atol=1e-3)


def test_strong_penalty_predicts_the_class_frequencies():
    z, _ = labelled(100, 7, 2)
    y = (torch.arange(100) < 17).long()
    p = linear_probe(z, y, l2=1e6)(z).softmax(1).detach()
    torch.testing.assert_close(p, torch.tensor([0.83, 0.17]).expand(100, 2), rtol=1e-3, atol=1e-3)


def test_separable_classes_and_more_features_than_rows_are_solved():
    z, y = labelled(23, 101, 3, apart=3.0)
    head = linear_probe(z, y)
    assert torch.equal(head(z).argmax(1), y) and head.weight.isfinite().all()


@pytest.mark.parametrize("constant", [0.0, 1e4, -3e-5])
def test_constant_feature_gets_no_weight(constant):
    z, y = labelled(97, 7, 3)
    z[:, 2] = constant
    z[0, 2] *= 1 + 1.2e-7  # the last bit of a float32
    head = linear_probe(z, y)
    without = linear_probe(z[:, [0, 1, 3, 4, 5, 6]], y)
    assert (head.weight[:, 2] == 0).all()
    torch.testing.assert_close(head(z), without(z[:, [0, 1, 3, 4, 5, 6]]), rtol=1e-3, atol=1e-3)


def test_feature_below_what_float32_rounds_off_the_others_gets_no_weight():
    z, y = labelled(97, 7, 3)
    for share, used in ((1e-5, True), (1e-8, False), (1e-31, False)):  # MiniLM has two of 1e-31 and one of 1e-8
        small = z.clone()
        small[:, 2] *= share
        head = linear_probe(small, y)
        assert (head.weight[:, 2] != 0).all() == used and (head.weight[:, [0, 1, 3, 4, 5, 6]] != 0).all()


def test_class_without_examples_gets_a_finite_and_tiny_probability():
    z, y = labelled(97, 7, 3)
    head = linear_probe(z, y, num_classes=5)
    assert head.weight.shape == (5, 7) and head.bias.isfinite().all()
    p = head(z).softmax(1).detach()
    assert p[:, 3:].max() < 1e-3
    torch.testing.assert_close(p[:, :3], linear_probe(z, y)(z).softmax(1).detach(), rtol=1e-3, atol=1e-3)


def test_probe_is_a_trainable_linear_head():
    z, y = labelled(97, 7, 3)
    head = linear_probe(z, y)
    assert type(head) is LinearHead and head.weight.dtype == torch.float32
    assert all(p.requires_grad and p.is_leaf for p in head.parameters())
    assert (head(z).argmax(1) == y).float().mean() > 0.6


@pytest.mark.parametrize("change,message", [
    (lambda z, y: (z, torch.ones_like(y)), "all 97 labels are class 1"),
    (lambda z, y: (z, y - 1), "labels in \\[-1, 1\\]; expected classes 0 … 2"),
    (lambda z, y: (z, y + 5), "labels in \\[5, 7\\]; expected classes 0 … 2"),
    (lambda z, y: (z, y.float()), "float32 for 97 rows; expected .* one integer label a row"),
    (lambda z, y: (z[:-1], y), r"labels \(97,\) of torch.int64 for 96 rows"),
    (lambda z, y: (z[:, :, None], y), r"\(97, 7, 1\)"),
    (lambda z, y: (z[:0], y[:0]), "N and D at least 1"),
    (lambda z, y: (z / 0, y), "NaN or infinity"),
])  # fmt: skip
def test_impossible_data_is_refused_with_the_reason(change, message):
    z, y = change(*labelled(97, 7, 3))
    with pytest.raises(ValueError, match=message):
        linear_probe(z, y, num_classes=3)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_probe_without_a_positive_penalty_is_refused(l2):
    with pytest.raises(ValueError, match="positive"):
        linear_probe(*labelled(97, 7, 3), l2=l2)


# --- linear probe by SGD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("K,l2", [(2, 0.1), (3, 0.03), (5, 0.3)])
def test_sgd_reaches_the_optimum_of_logistic_regression(K, l2):
    z, y = labelled(89, 5, K)
    exact = linear_probe(z, y, l2=l2)
    sgd = sgd_probe(z, y, l2=l2, epochs=200, batch_size=17, generator=draws())
    whole = sgd_probe(z, y, l2=l2, epochs=800, batch_size=89, generator=draws())  # no noise: to the last digits
    torch.testing.assert_close(sgd(z).softmax(1), exact(z).softmax(1), rtol=0, atol=0.02)
    torch.testing.assert_close(whole(z), exact(z), rtol=1e-3, atol=1e-3)
    losses = [float(objective(z, y, h.weight, h.bias, l2).detach()) for h in (exact, sgd)]
    assert losses[0] - 1e-6 <= losses[1] <= losses[0] + 5e-4 < np.log(K)
    assert type(sgd) is LinearHead and sgd.weight.dtype == torch.float32 and sgd.weight.is_leaf


def test_sgd_probe_depends_on_its_generator_alone_and_rises_from_log_K():
    z, y = labelled(53, 5, 3)
    first, again = (sgd_probe(z, y, epochs=3, generator=draws(5)) for _ in range(2))
    other = sgd_probe(z, y, epochs=3, generator=draws(6))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight)


def test_sgd_probe_refuses_what_the_probe_refuses():
    z, y = labelled(53, 5, 3)
    for bad, message in (((z / 0, y), "NaN"), ((z, y.float()), "integer"), ((z, y - 1), r"labels in \[-1")):
        with pytest.raises(ValueError, match=message):
            sgd_probe(*bad, epochs=1)
    for settings in ({"l2": 0.0}, {"epochs": 0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=f"got {next(iter(settings))}="):
            sgd_probe(z, y, **settings)


# --- partial fine-tuning from cached maps ------------------------------------------------------------------------


def pictures_of(n: int) -> PictureSplit:
    pictures = torch.randint(256, (n, 3, 37, 37), generator=draws(3), dtype=torch.uint8)
    return PictureSplit(pictures, torch.arange(n) % 3, tuple(map(str, range(n))))


def test_cached_batches_come_in_the_loaders_order():
    split = pictures_of(11)
    for shuffle in (False, True):
        theirs = loader(split, torch.Tensor.float, batch_size=3, shuffle=shuffle, generator=draws(5))
        ours = Cached(features=split.pictures.float(), labels=split.labels, batch_size=3, shuffle=shuffle,
                      generator=draws(5))  # fmt: skip
        assert len(ours) == len(theirs) == 4
        for _ in range(2):  # the second epoch has another order
            for (h, y), (x, target) in zip(ours, theirs, strict=True):
                assert torch.equal(h, x) and torch.equal(y, target)
    assert torch.equal(torch.cat([y for _, y in ours]).sort()[0], split.labels.sort()[0])


@pytest.mark.parametrize(
    "h,y,n,words",
    [(3, 5, 1, "3 features, 5 labels"), (0, 0, 1, "0 features, 0 labels"), (3, 3, 0, "batch_size=0")],
)
def test_cached_refuses_what_does_not_match(h, y, n, words):
    with pytest.raises(ValueError, match=f"got {words}"):
        Cached(features=torch.zeros(h, 2), labels=torch.zeros(y), batch_size=n)


@pytest.mark.parametrize("name,stage", [
    ("squeezenet1_1", "stem"), ("squeezenet1_1", "stage3"), ("squeezenet1_1", "pool"),
    ("efficientnet_lite0", "stage2"), ("efficientnet_lite0", "stage4"),
])  # fmt: skip
def test_training_above_a_cut_on_cached_maps_equals_training_on_pictures(name, stage):
    f = load_backbone(name, size=37)
    torch.manual_seed(0)
    on_pictures = Model(f, LinearHead(f.feature_dim, 3))
    above = [getattr(f, s) for s in f.stages[f.stages.index(stage) + 1 :]]
    train_only(on_pictures, *above, on_pictures.head)
    on_maps = copy.deepcopy(on_pictures)
    start = copy.deepcopy(on_pictures.state_dict())
    split = pictures_of(13)

    def run(model, batches):
        optimizer = torch.optim.SGD(trainable(model), lr=0.001, momentum=0.9)
        return [(r.loss, r.task_loss) for r in fit(model, batches, optimizer, epochs=2) if hasattr(r, "step")]

    maps, labels = extract(on_maps.backbone, loader(split, f.preprocess, batch_size=7), stage=stage)
    cached = run(upper_part(on_maps, stage), Cached(features=maps, labels=labels, batch_size=7, shuffle=True,
                                                    generator=draws(5)))  # fmt: skip
    plain = run(on_pictures, loader(split, f.preprocess, batch_size=7, shuffle=True, generator=draws(5)))
    np.testing.assert_allclose(cached, plain, rtol=1e-3, atol=1e-3)
    for k, v in on_pictures.state_dict().items():  # the model itself has learned, its lower part stays to the bit
        lower = k.startswith("backbone.") and f.stages.index(k.split(".")[1]) <= f.stages.index(stage)
        torch.testing.assert_close(on_maps.state_dict()[k], start[k] if lower else v, rtol=2e-3, atol=2e-3)
        assert not lower or torch.equal(on_maps.state_dict()[k], start[k])
    assert not torch.equal(on_maps.head.weight, start["head.weight"])
    batches = loader(split, f.preprocess)
    assert evaluate(on_maps, batches)["loss"] == pytest.approx(
        evaluate(upper_part(on_maps, stage), Cached(features=maps, labels=labels))["loss"], abs=1e-4
    )


def test_the_upper_part_holds_the_models_own_modules_and_frozen_ones_stay_frozen(squeezenet):
    model = Model(copy.deepcopy(squeezenet), LinearHead(512, 3))
    freeze(model.backbone.stage3)
    upper = upper_part(model, "stage2").train()
    assert upper.head is model.head and upper.backbone.stage4 is model.backbone.stage4
    assert [name for name, _ in upper.backbone.named_children()] == ["stage3", "stage4", "pool"]
    assert not model.backbone.stage3.training and model.backbone.stage4.training
    with pytest.raises(ValueError, match="got stage 'stage9'; expected one of stem"):
        upper_part(model, "stage9")


# --- kNN and PCA -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 7])
def test_knn_is_scikit_learns_with_the_row_itself_left_out(k):
    z, y = labelled(101, 7, 2, apart=0.3)
    hits = 0
    for i in range(101):
        others = [j for j in range(101) if j != i]
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(z[others].double(), y[others])
        hits += int(model.predict(z[i : i + 1].double())[0] == int(y[i]))
    assert knn_accuracy(z, y, k=k) == pytest.approx(hits / 101)


def test_knn_tie_goes_to_the_nearest():
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 21.0, 100.0]))
    z, y = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([1, 0, 1, 0])
    # k=2. Row 0: votes of rows 1 (0), 2 (1), nearest is class 0: wrong. Row 1: 0 and 2, class 1: wrong.
    # Row 2: rows 1 and 0, nearest is class 0: wrong. Row 3: rows 2 and 1, nearest is class 1: wrong.
    assert knn_accuracy(z, y, k=2) == 0.0
    assert knn_accuracy(z, torch.tensor([1, 1, 0, 0]), k=2) == 0.75  # only row 2 has two neighbours of the other class


def test_knn_does_not_depend_on_block_size_or_length_of_rows():
    z, y = labelled(1103, 5, 3, apart=0.5)
    z = z - z.mean(0)
    scaled = z * torch.rand(1103, 1, generator=draws()).add(0.5)
    assert knn_accuracy(z, y, k=5) == knn_accuracy(scaled, y, k=5)
    similarity = F.normalize(z.double(), dim=1) @ F.normalize(z.double(), dim=1).T
    similarity.fill_diagonal_(-2)
    assert knn_accuracy(z, y, k=1) == pytest.approx(float((y[similarity.argmax(1)] == y).double().mean()))


def test_duplicated_rows_are_each_others_nearest():
    z, y = labelled(31, 5, 3)
    assert knn_accuracy(z.repeat(2, 1), y.repeat(2), k=1) == 1.0


@pytest.mark.parametrize("k", [0, 97, 2.0])
def test_knn_refuses_an_impossible_k(k):
    with pytest.raises(ValueError, match="from 1 to 96"):
        knn_accuracy(*labelled(97, 7, 3), k=k)


@pytest.mark.parametrize("N,D", [(53, 11), (11, 53)])
def test_pca_is_scikit_learns_up_to_signs(N, D):
    z = torch.randn(N, D, generator=draws()) * torch.linspace(1, 3, D) + 100
    got = pca(z, 5)
    oracle = PCA(5, svd_solver="full").fit_transform(z.double().numpy())
    np.testing.assert_allclose(np.abs(got.numpy()), np.abs(oracle), rtol=1e-4, atol=1e-4)
    assert (got.gather(0, got.abs().argmax(0, keepdim=True)) > 0).all()
    assert got.mean(0).abs().max() < 1e-4


def test_pca_of_rank_deficient_features_is_zero_beyond_the_rank():
    z = torch.randn(5, 11, generator=draws())
    assert pca(z, 5)[:, 4].abs().max() < 1e-5  # five centred points span four directions


def test_pca_refuses_too_many_directions():
    with pytest.raises(ValueError, match="d=12"):
        pca(torch.zeros(31, 11), 12)


def test_targets_of_unequal_width_are_not_filled_up_with_a_class():
    """Token 0 is a token: conversations whose answers differ in length come as one table"""
    model, (x, y) = language_model(), conversations()
    batches = [(rows(x, slice(5)), y[:5]), (rows(x, slice(5, 8)), y[5:8, :3])]
    with pytest.raises(ValueError, match=r"targets of different shapes, \[\(3,\), \(4,\)\]"):
        extract(model.backbone, batches)
    _, labels = extract(model.backbone, [(a, F.pad(b, (0, 4 - b.shape[1]), value=-100)) for a, b in batches])
    assert labels.shape == (8, 4) and (labels[5:, 3] == -100).all()


def test_a_feature_that_is_next_to_nothing_gets_no_weight_and_the_probe_can_be_trained_on():
    gen = torch.Generator().manual_seed(0)
    z, y = torch.randn(23, 5, generator=gen), torch.arange(23) % 3
    z[:, 2] *= 1e-31  # MiniLM has such a one
    head, without = (linear_probe(some, y, l2=0.1) for some in (z, z[:, [0, 1, 3, 4]]))
    assert head.weight[:, 2].abs().max() == 0 and head.weight.square().isfinite().all()
    torch.testing.assert_close(head.weight[:, [0, 1, 3, 4]], without.weight, rtol=1e-4, atol=1e-5)
    small = linear_probe(1e-20 * z, y, l2=0.1)  # the size of all is no matter
    torch.testing.assert_close(small(1e-20 * z), head(z), rtol=1e-4, atol=1e-4)
