"""Losses on features against hand cases, pytorch-metric-learning, finite differences, invariances and limits."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as pml
from torch import nn

from sftlib import losses

N, D, K = 11, 7, 5


def batch(seed=0, dtype=torch.float64, n=N):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, D, generator=g, dtype=torch.float64)
    y = torch.randint(K, (n,), generator=g)
    return z.to(dtype), y, torch.randn(K, D, generator=g, dtype=torch.float64).to(dtype)


def at_angles(degrees, length=1.0):
    t = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return length * torch.stack([t.cos(), t.sin()], 1)


def gradient(loss, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss(z), z)[0]


def on_batch(name):
    """Each loss as f(z, y, rows): the same call for the tests that hold for all."""
    return {
        "cosine_prototype": losses.cosine_prototype,
        "center": losses.center,
        "cosface": lambda z, y, w: losses.cosface(z, y, w, scale=13.0, margin=0.35),
        "arcface": lambda z, y, w: losses.arcface(z, y, w, scale=13.0, margin=0.5),
        "supervised_contrastive": lambda z, y, w: losses.supervised_contrastive(z, y, temperature=0.3),
    }[name]


EVERY = ["cosine_prototype", "center", "cosface", "arcface", "supervised_contrastive"]
WITH_ROWS = EVERY[:-1]
OF_DIRECTION = ["cosine_prototype", "cosface", "arcface", "supervised_contrastive"]


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_gradient_agrees_with_finite_differences(name):
    z, y, w = batch()
    z.requires_grad_(), w.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, w: on_batch(name)(z, y, w), (z, w), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_order_of_the_samples_does_not_matter(name):
    z, y, w = batch(1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    loss = on_batch(name)
    torch.testing.assert_close(loss(z[order], y[order], w), loss(z, y, w))


@pytest.mark.parametrize("name", EVERY)
def test_renaming_the_classes_does_not_matter(name):
    z, y, w = batch(3)
    new = torch.tensor([3, 0, 4, 1, 2])
    renamed = torch.empty_like(w)
    renamed[new] = w
    torch.testing.assert_close(on_batch(name)(z, new[y], renamed), on_batch(name)(z, y, w))


@pytest.mark.parametrize("name", OF_DIRECTION)
@pytest.mark.parametrize("c", [3.0, 1e-3])
def test_scaling_z_leaves_the_loss_and_divides_the_gradient(name, c):
    z, y, w = batch(4)
    loss = lambda z: on_batch(name)(z, y, w)  # noqa: E731
    torch.testing.assert_close(loss(c * z), loss(z))
    torch.testing.assert_close(gradient(loss, c * z), gradient(loss, z) / c)


@pytest.mark.parametrize("name", OF_DIRECTION)
def test_gradient_is_orthogonal_to_z(name):
    z, y, w = batch(5)
    g = gradient(lambda z: on_batch(name)(z, y, w), z)
    assert g.norm(dim=1).min() > 1e-4
    torch.testing.assert_close((g * z).sum(1), torch.zeros(N, dtype=z.dtype), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", OF_DIRECTION)
def test_zero_vector_gives_a_finite_loss_and_no_gradient(name):
    z, y, w = batch(6, torch.float32)
    z[3] = 0
    g = gradient(lambda z: on_batch(name)(z, y, w), z)
    assert on_batch(name)(z, y, w).isfinite() and g.isfinite().all()
    assert g[3].count_nonzero() == 0 and (g[:3].norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", OF_DIRECTION)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_extreme_lengths_neither_underflow_nor_overflow(name, size):
    z, y, w = batch(7, torch.float32)
    torch.testing.assert_close(on_batch(name)(size * z, y, w), on_batch(name)(z, y, w))
    assert gradient(lambda z: on_batch(name)(z, y, w), size * z).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    z, y, w = (t.to(dtype) if t.is_floating_point() else t for t in batch(8))
    loss = on_batch(name)(z, y, w)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), on_batch(name)(z.double(), y, w.double()), rtol=1e-5, atol=1e-6)
    assert gradient(lambda z: on_batch(name)(z, y, w), z).isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_autocast_does_not_coarsen_the_loss(name):
    z, y, w = batch(9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = on_batch(name)(z, y, w)
    torch.testing.assert_close(inside, on_batch(name)(z, y, w), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_non_finite_features_show_in_the_loss(name):
    z, y, w = batch(10)
    z[y == y[0]] = float("nan")
    assert on_batch(name)(z, y, w).isnan()


@pytest.mark.parametrize("name", WITH_ROWS)
def test_mean_over_the_batch_does_not_depend_on_its_size(name):
    z, y, w = batch(11)
    twice = on_batch(name)(torch.cat([z, z]), torch.cat([y, y]), w)
    torch.testing.assert_close(twice, on_batch(name)(z, y, w))
    alone = torch.stack([on_batch(name)(z[i : i + 1], y[i : i + 1], w) for i in range(N)])
    torch.testing.assert_close(alone.mean(), twice)


@pytest.mark.parametrize("name", EVERY)
def test_single_sample_and_single_class_are_finite(name):
    z, y, w = batch(12, torch.float32)
    for n, labels in [(1, y[:1]), (N, torch.full((N,), 2))]:
        assert on_batch(name)(z[:n], labels, w).isfinite()
        assert gradient(lambda z, y=labels: on_batch(name)(z, y, w), z[:n]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
@pytest.mark.parametrize("name", EVERY)
def test_any_integer_type_of_labels_gives_the_same(name, dtype):
    z, y, w = batch(13)  # uint8 would select as a mask if it were used as an index
    torch.testing.assert_close(on_batch(name)(z, y.to(dtype), w), on_batch(name)(z, y, w))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda z, y: (z[:, :, None, None], y), "flatten"),
        (lambda z, y: (z, y[:, None]), "y.flatten"),
        (lambda z, y: (z, F.one_hot(y, K)), "argmax"),
        (lambda z, y: (z, y[:-1]), f"N = {N}"),
        (lambda z, y: (z, y.double()), "y.long"),
        (lambda z, y: (z.long(), y), "z.float"),
        (lambda z, y: (z[:0], y[:0]), "empty batch"),
    ],
)
def test_wrong_batch_is_named_with_its_remedy(name, change, words):
    z, y, w = batch(14)
    z, y = change(z, y)
    with pytest.raises(ValueError, match=words):
        on_batch(name)(z, y, w)


@pytest.mark.parametrize("name", WITH_ROWS)
def test_labels_out_of_range_and_wrong_rows_are_named(name):
    z, y, w = batch(15)
    with pytest.raises(ValueError, match=f"to {K}, expected 0 … {K - 1}"):
        on_batch(name)(z, torch.cat([y[:-1], torch.tensor([K])]), w)
    with pytest.raises(ValueError, match="from -1"):
        on_batch(name)(z, torch.cat([y[:-1], torch.tensor([-1])]), w)
    with pytest.raises(ValueError, match=r"\.T"):
        on_batch(name)(z, y, w.T)


@pytest.mark.parametrize("name", ["cosine_prototype", "cosface", "arcface"])
def test_direction_of_length_zero_is_an_error(name):
    z, y, w = batch(16)
    w[y[0]] = 0
    with pytest.raises(ValueError, match="length zero"):
        on_batch(name)(z, y, w)


@pytest.mark.parametrize("name", WITH_ROWS)
def test_per_sample_gradients_by_vmap_add_up_to_the_gradient_of_the_batch(name):
    z, y, w = batch(17)
    one = torch.func.grad(lambda z, y: on_batch(name)(z[None], y[None], w))
    torch.testing.assert_close(torch.func.vmap(one)(z, y) / N, gradient(lambda z: on_batch(name)(z, y, w), z))


# --- cosine loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 20.0, 40.0, 90.0, 137.0, 180.0])
def test_cosine_loss_and_its_gradient_at_known_angles(angle):
    z, mu, length = at_angles([angle], 3.0), at_angles([0.0], 5.0), 3.0
    loss = lambda z: losses.cosine_prototype(z, torch.tensor([0]), mu)  # noqa: E731
    assert loss(z).item() == pytest.approx(1 - math.cos(math.radians(angle)), abs=1e-12)
    assert gradient(loss, z).norm().item() == pytest.approx(math.sin(math.radians(angle)) / length, abs=1e-12)


def test_cosine_loss_equals_half_the_squared_distance_of_unit_vectors():
    z, y, mu = batch(18)
    half = 0.5 * (F.normalize(z) - F.normalize(mu)[y]).square().sum(1).mean()
    torch.testing.assert_close(losses.cosine_prototype(z, y, mu), half)


def test_zero_feature_counts_as_cosine_zero():
    assert losses.cosine_prototype(torch.zeros(1, D), torch.tensor([1]), torch.eye(K, D)) == 1.0


def test_all_positive_features_cannot_point_along_two_opposite_directions():
    mu = losses.simplex_prototypes(2, 6)
    best = mu.clamp(min=0)  # the all-positive feature closest to each
    floor = losses.cosine_prototype(best, torch.tensor([0, 1]), mu)
    assert floor.item() == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)  # 0.29


# --- prototypes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, d", [(2, 1), (2, 7), (5, 4), (5, 5), (5, 7), (13, 12), (42, 101)])
@pytest.mark.parametrize("seed", [None, 0])
def test_simplex_rows_have_unit_norm_and_equal_angles(k, d, seed):
    g = None if seed is None else torch.Generator().manual_seed(seed)
    mu = losses.simplex_prototypes(k, d, generator=g)
    assert mu.shape == (k, d) and mu.dtype == torch.float32
    expected = np.full((k, k), -1 / (k - 1)) + np.eye(k) * k / (k - 1)
    np.testing.assert_allclose(mu.double().numpy() @ mu.double().numpy().T, expected, atol=3e-7)


def test_simplex_is_deterministic_rotates_by_seed_and_uses_every_coordinate():
    same = losses.simplex_prototypes(K, D)
    assert torch.equal(same, losses.simplex_prototypes(K, D)) and (same.norm(dim=0) > 0.1).all()
    a, b, c = (losses.simplex_prototypes(K, D, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_simplex_without_room_names_the_alternatives():
    with pytest.raises(ValueError, match="ProjectedOneHot.*RunningPrototypes.*LearnedPrototypes"):
        losses.simplex_prototypes(K, K - 2)
    with pytest.raises(ValueError, match="num_classes=1"):
        losses.simplex_prototypes(1, D)


def test_repulsion_is_zero_for_a_simplex_and_largest_when_collapsed():
    assert losses.prototype_repulsion(losses.simplex_prototypes(K, D)).item() == pytest.approx(0, abs=1e-10)
    collapsed = torch.ones(K, D)
    assert losses.prototype_repulsion(collapsed).item() == pytest.approx((K / (K - 1)) ** 2)
    _, _, w = batch(19)
    naive = [(F.cosine_similarity(w[i], w[j], dim=0) + 1 / (K - 1)) ** 2 for i in range(K) for j in range(K) if i != j]
    torch.testing.assert_close(losses.prototype_repulsion(w), torch.stack(naive).mean())


def train_shared_map(loss, seed, steps=300):
    """-> features and loss of 101 samples with random labels, which one linear map for all cannot tell apart."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(101, D, generator=g), torch.randint(K, (101,), generator=g)
    weight = torch.randn(D, D, generator=g).requires_grad_()
    bias = torch.randn(D, generator=g).requires_grad_()
    optimizer = torch.optim.SGD([weight, bias, *loss.parameters()], lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(x @ weight + bias, y)
        value.backward()
        optimizer.step()
    return (x @ weight + bias).detach(), value.item()


def test_learned_prototypes_collapse_without_repulsion_and_stand_apart_with_it():
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        free = losses.LearnedPrototypes(K, D, repulsion=0, generator=g)
        apart = losses.LearnedPrototypes(K, D, repulsion=1, generator=g)
        _, value = train_shared_map(free, seed)
        assert value < 0.1 and losses.prototype_repulsion(free.prototypes) > 1.2  # 1.56: all the same
        train_shared_map(apart, seed)
        assert losses.prototype_repulsion(apart.prototypes) < 0.3


def test_projected_one_hot_reaches_zero_loss_from_all_positive_features():
    z, y, _ = batch(20, torch.float32)
    z, loss = z.abs(), losses.ProjectedOneHot(K, D, generator=torch.Generator().manual_seed(0))
    y[:K] = torch.arange(K)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(z[:K], y[:K])
        value.backward()
        optimizer.step()
    assert value < 1e-3
    assert loss.projection.weight.grad.shape == (K, D)


def test_projected_one_hot_is_the_cosine_of_the_projection_and_a_one_hot_label():
    z, y, _ = batch(21, torch.float32)
    loss = losses.ProjectedOneHot(K, D)
    p = z @ loss.projection.weight.T
    naive = 1 - (p[torch.arange(N), y] / p.norm(dim=1)).mean()
    torch.testing.assert_close(loss(z, y), naive)


def test_running_prototypes_follow_the_class_means():
    z, y, _ = batch(22, torch.float32)
    loss = losses.RunningPrototypes(K, D, momentum=0.75)
    y = y.clamp(max=K - 2)  # the last class is never seen
    loss(z, y)
    for k in y.unique():
        torch.testing.assert_close(loss.prototypes[k], z[y == k].mean(0))
    old = loss.prototypes.clone()
    loss(z[:1], y[:1])
    moved = torch.where(torch.arange(K)[:, None] == y[0], 0.75 * old + 0.25 * z[0], old)
    torch.testing.assert_close(loss.prototypes, moved)
    loss.eval()
    before = copy.deepcopy(loss.state_dict())
    value = loss(z, y)
    torch.testing.assert_close(value, losses.cosine_prototype(z, y, loss.prototypes))
    assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())
    with pytest.raises(ValueError, match="no running mean"):
        loss(z[:1], torch.tensor([K - 1]))


def test_running_prototypes_pass_no_gradient_and_allow_two_forwards_before_backward():
    z, y, _ = batch(23, torch.float32)
    loss, z = losses.RunningPrototypes(K, D), z.requires_grad_()
    total = loss(z, y)
    fixed = loss.prototypes.clone()
    total = total + loss(z + 1, y)
    total.backward()  # the buffer has changed in between
    expected = gradient(lambda z: losses.cosine_prototype(z, y, fixed), z)
    expected = expected + gradient(lambda z: losses.cosine_prototype(z + 1, y, loss.prototypes), z)
    torch.testing.assert_close(z.grad, expected)


@pytest.mark.parametrize(
    "make",
    [losses.RunningPrototypes, losses.LearnedPrototypes, losses.CenterLoss, losses.ProjectedOneHot],
    ids=lambda c: c.__name__,
)
def test_losses_with_state_save_load_copy_and_pickle(make):
    z, y, _ = batch(24, torch.float32)
    loss, other = make(K, D), make(K, D)
    loss(z, torch.arange(N) % K)
    other.load_state_dict(loss.state_dict())
    twins = [loss.eval(), other.eval(), copy.deepcopy(loss).eval(), pickle.loads(pickle.dumps(loss)).eval()]
    assert len({twin(z, y).item() for twin in twins}) == 1


# --- center loss -------------------------------------------------------------------------------------------


def test_center_loss_is_half_the_mean_squared_distance():
    z = torch.tensor([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.0]], requires_grad=True)
    c = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    y = torch.tensor([0, 1, 1])
    loss = losses.center(z, y, c)
    assert loss.item() == pytest.approx(0.5 * (1 + (9 + 16) + (1 + 1)) / 3)
    loss.backward()
    torch.testing.assert_close(z.grad, (z - c[y]).detach() / 3)


def test_update_of_the_centers_follows_wens_rule():
    z, y, c = batch(25)
    y = y.clamp(max=K - 2)
    moved = losses.update_centers(c, z, y, rate=0.5)
    for j in range(K):
        n = int((y == j).sum())
        mean = z[y == j].mean(0) if n else c[j]
        torch.testing.assert_close(moved[j], c[j] + 0.5 * n / (1 + n) * (mean - c[j]))
    assert torch.equal(moved[K - 1], c[K - 1]) and not moved.requires_grad
    with pytest.raises(ValueError, match="rate=0"):
        losses.update_centers(c, z, y, rate=0)


def test_center_loss_module_uses_the_old_centers_then_moves_them_only_in_training():
    z, y, _ = batch(26, torch.float32)
    loss = losses.CenterLoss(K, D, rate=0.3)
    z = z.requires_grad_()
    first = loss(z, y)
    assert first.item() == pytest.approx(0.5 * z.square().sum(1).mean().item(), rel=1e-6)
    expected = losses.update_centers(torch.zeros(K, D), z, y, rate=0.3)
    torch.testing.assert_close(loss.centers, expected)
    first.backward()
    torch.testing.assert_close(z.grad, z.detach() / N)
    loss.eval()(z, y)
    torch.testing.assert_close(loss.centers, expected, rtol=0, atol=0)
    assert not list(loss.parameters())


def test_center_loss_alone_pulls_the_features_of_a_network_into_one_point():
    z, value = train_shared_map(losses.CenterLoss(K, D), 27)
    assert value < 0.01 and (z - z.mean(0)).norm(dim=1).max() < 0.3  # about sqrt(D * D) = 7 before


# --- supervised contrastive --------------------------------------------------------------------------------


def test_contrastive_loss_of_the_published_six_unit_vectors():
    e = torch.eye(3, dtype=torch.float64)
    z, y = torch.cat([e.flip(0), e.flip(0)]), torch.tensor([0, 0, 2, 0, 0, 2])
    a, b = (3 * math.log(math.e + 4) - 1) / 3, math.log(math.e + 4) - 1
    assert (a, b) == pytest.approx((1.5714991, 0.9048324), abs=1e-7)
    loss = losses.supervised_contrastive(z, y, temperature=1.0)
    assert loss.item() == pytest.approx((2 * a + b) / 3, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_contrastive_loss_of_a_regular_tetrahedron_is_log_3_at_any_temperature(temperature):
    z = losses.simplex_prototypes(4, 3).double()
    loss = losses.supervised_contrastive(z, torch.tensor([0, 0, 1, 1]), temperature=temperature)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)


def test_contrastive_loss_equals_the_naive_loop():
    z, y, _ = batch(28)
    y[0] = 41  # no positive: left out of the mean
    z = F.normalize(z)
    terms = []
    for i in range(N):
        positives = [p for p in range(N) if p != i and y[p] == y[i]]
        bottom = sum(math.exp(z[i] @ z[a] / 0.3) for a in range(N) if a != i)
        if positives:
            logs = [math.log(math.exp(z[i] @ z[p] / 0.3) / bottom) for p in positives]
            terms.append(-sum(logs) / len(logs))
    assert 0 < len(terms) < N
    loss = losses.supervised_contrastive(3 * z, y, temperature=0.3)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_contrastive_loss_agrees_with_pytorch_metric_learning_and_differs_from_the_authors_by_a_constant():
    T = 0.3
    z, y, _ = batch(29)
    ours = losses.supervised_contrastive(z, y, temperature=T)
    torch.testing.assert_close(ours, pml.SupConLoss(temperature=T)(z, y))
    z, y = torch.cat([z, z.flip(1)]), torch.cat([y, y])  # every anchor has a positive
    unit = F.normalize(z)
    logits = (unit @ unit.T / T).fill_diagonal_(float("-inf"))
    log_p = logits.log_softmax(1).fill_diagonal_(0)
    mask = (y[:, None] == y).double().fill_diagonal_(0)
    authors = (-T / 0.07 * (mask * log_p).sum(1) / mask.sum(1)).mean()
    torch.testing.assert_close(T / 0.07 * losses.supervised_contrastive(z, y, temperature=T), authors)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_contrastive_loss_without_a_positive_is_zero_and_keeps_the_graph(n):
    z = batch(30)[0][:n].clone().requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        loss = losses.supervised_contrastive(z, torch.arange(n), temperature=0.1)
        loss.backward()
    assert loss.item() == 0 and z.grad.count_nonzero() == 0 and z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_contrastive_loss_refuses_a_bad_temperature(temperature):
    z, y, _ = batch()
    with pytest.raises(ValueError, match="temperature"):
        losses.supervised_contrastive(z, y, temperature=temperature)


# --- margins -----------------------------------------------------------------------------------------------


def test_margins_at_known_angles():
    w = at_angles([0.0, 90.0], 2.0)
    z, y = at_angles([20.0, 40.0], 3.0), torch.tensor([0, 1])
    c = lambda degrees: math.cos(math.radians(degrees))  # noqa: E731
    nats = lambda target, other: math.log1p(math.exp(other - target))  # noqa: E731
    cos_margin = (nats(5 * (c(20) - 0.3), 5 * c(70)) + nats(5 * (c(50) - 0.3), 5 * c(40))) / 2
    assert losses.cosface(z, y, w, scale=5, margin=0.3).item() == pytest.approx(cos_margin, rel=1e-12)
    arc = (nats(5 * c(50), 5 * c(70)) + nats(5 * c(80), 5 * c(40))) / 2
    assert losses.arcface(z, y, w, scale=5, margin=math.radians(30)).item() == pytest.approx(arc, rel=1e-12)


def test_margins_agree_with_pytorch_metric_learning_also_past_pi():
    z, y, w = batch(31)
    z[:3] = -w[y[:3]] + 0.1 * z[:3]  # angles near pi
    cosine = F.cosine_similarity(z, w[y])
    assert (cosine[:3] < math.cos(math.pi - 0.5)).all() and (cosine[3:] > math.cos(math.pi - 0.5)).any()
    ours = losses.cosface(z, y, w, scale=13.0, margin=0.35)
    theirs = pml.CosFaceLoss(K, D, margin=0.35, scale=13.0)
    theirs.W.data = w.T.clone()
    torch.testing.assert_close(ours, theirs(z, y))
    theirs = pml.ArcFaceLoss(K, D, margin=28.6, scale=13.0)  # degrees there, radians here
    theirs.W.data = w.T.clone()
    ours = losses.arcface(z, y, w, scale=13.0, margin=math.radians(28.6))
    torch.testing.assert_close(ours, theirs(z, y))
    arcface = lambda z: losses.arcface(z, y, w, scale=13.0, margin=math.radians(28.6))  # noqa: E731
    torch.testing.assert_close(gradient(lambda z: theirs(z, y), z), gradient(arcface, z))


@pytest.mark.parametrize("name", ["cosface", "arcface"])
def test_without_margin_both_are_cross_entropy_on_scaled_cosines(name):
    z, y, w = batch(32)
    plain = F.cross_entropy(7 * F.normalize(z) @ F.normalize(w).T, y)
    torch.testing.assert_close(getattr(losses, name)(z, y, w, scale=7.0, margin=0.0), plain)


def target_logit(angle, margin):
    """The target's logit, read off the loss: with one other class at right angles to everything, its logit is 0."""
    z = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    return -math.log(math.expm1(losses.arcface(z, torch.tensor([0]), w, scale=1.0, margin=margin).item()))


def test_arcface_logit_is_cos_t_plus_m_and_falls_monotonically_to_pi():
    m = 0.5
    angles = np.linspace(0, math.pi, 101)
    logits = np.array([target_logit(t, m) for t in angles])
    early = angles <= math.pi - m
    np.testing.assert_allclose(logits[early], np.cos(angles[early] + m), atol=1e-9)
    np.testing.assert_allclose(logits[~early], np.cos(angles[~early]) - m * math.sin(m), atol=1e-9)
    assert (np.diff(logits) < 0).all()


@pytest.mark.parametrize("degrees", [3.0, 40.0, 90.0, 140.0])
def test_arcface_gradient_has_the_factor_sin_t_plus_m_over_sin_t(degrees):
    t, m, s = math.radians(degrees), 0.5, 3.0
    z = torch.tensor([[math.cos(t), math.sin(t), 0.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    g = gradient(lambda z: losses.arcface(z, torch.tensor([0]), w, scale=s, margin=m), z)
    p = 1 / (1 + math.exp(-s * math.cos(t + m)))
    dcos_dz = torch.tensor([math.sin(t) ** 2, -math.sin(t) * math.cos(t), 0], dtype=torch.float64)
    expected = (p - 1) * s * math.sin(t + m) / math.sin(t) * dcos_dz
    torch.testing.assert_close(g[0, :2], expected[:2])


@pytest.mark.parametrize("name", ["cosface", "arcface"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-7, 1e-4])
def test_margins_have_finite_gradients_at_and_near_the_poles(name, sign, tilt):
    _, _, w = batch(33, torch.float32)
    y = torch.arange(K)
    z = (sign * 3 * w + tilt * w.roll(1, 1)).requires_grad_()
    w = w.clone().requires_grad_()
    loss = getattr(losses, name)(z, y, w, scale=64.0, margin=0.5)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all() and w.grad.isfinite().all()
    assert z.grad.norm(dim=1).max() < 64  # at most scale / (N ||z||) and the pull of the others


def test_arcface_keeps_its_digits_near_angle_zero_in_float32():
    t = 1e-3  # 1 - cos t = 5e-7: acos in float32 would be off by a tenth
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float64, 1e-9)):
        z, w = torch.tensor([[1.0, t]], dtype=dtype), torch.tensor([[1.0, 0], [-1.0, 0]], dtype=dtype)
        g = gradient(lambda z, w=w: losses.arcface(z, torch.tensor([0]), w, scale=1.0, margin=0.5), z)
        p = torch.tensor([math.cos(math.atan(t) + 0.5), -math.cos(math.atan(t))]).double().softmax(0)[0].item()
        expected = (1 - p) * math.sin(math.atan(t) + 0.5) + (1 - p) * math.sin(math.atan(t))
        assert g[0, 1].item() == pytest.approx(expected / math.hypot(1, t) ** 2, rel=max(tolerance, 1e-6))


@pytest.mark.parametrize("scale, k", [(1.0, 2), (1.0, 11), (5.0, 7), (64.0, 42)])
def test_normface_cannot_go_below_its_bound_and_the_simplex_reaches_it(scale, k):
    bound = math.log1p((k - 1) * math.exp(-scale * k / (k - 1)))
    w, y = losses.simplex_prototypes(k, 43).double(), torch.arange(k)
    reached = losses.cosface(w, y, w, scale=scale, margin=0).item()
    assert reached == pytest.approx(bound, rel=1e-4, abs=1e-12)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        z, v = (torch.randn(k, 43, generator=g, dtype=torch.float64) for _ in range(2))
        assert losses.cosface(z, y, v, scale=scale, margin=0).item() > bound
    if scale == 1:
        assert bound == pytest.approx({2: 0.1269, 11: math.log1p(10 * math.exp(-1.1))}[k], abs=1e-4)


def test_a_larger_margin_never_lowers_the_loss():
    z, y, w = batch(34)
    for f in (losses.cosface, losses.arcface):
        values = [f(z, y, w, scale=5.0, margin=m).item() for m in (0.0, 0.1, 0.3, 0.5, 1.0)]
        assert values == sorted(values) and values[0] < values[-1]


def test_margin_losses_name_wrong_settings():
    z, y, w = batch()
    with pytest.raises(ValueError, match="radians"):
        losses.arcface(z, y, w, scale=64, margin=28.6)
    with pytest.raises(ValueError, match="margin=-0.1"):
        losses.cosface(z, y, w, scale=64, margin=-0.1)
    with pytest.raises(ValueError, match="scale=0"):
        losses.arcface(z, y, w, scale=0, margin=0.5)


# --- penalties ---------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


@pytest.mark.parametrize("copy_of", [losses.snapshot, lambda net: copy.deepcopy(net.state_dict())])
def test_l2_sp_is_half_the_squared_distance_and_its_gradient_the_difference(copy_of):
    net = network()
    start = copy_of(net)
    assert losses.l2_sp(net, start).item() == 0
    with torch.no_grad():
        for i, w in enumerate(net.parameters()):
            w.add_(i + 1)
    loss = losses.l2_sp(net, start)
    squares = [w.numel() * (i + 1) ** 2 for i, w in enumerate(net.parameters())]
    assert loss.item() == pytest.approx(0.5 * sum(squares), rel=1e-5)
    loss.backward()
    for i, w in enumerate(net.parameters()):
        torch.testing.assert_close(w.grad, torch.full_like(w, i + 1), rtol=1e-5, atol=1e-5)


def test_l2_sp_refuses_a_start_that_moves_along():
    net = network()
    for start in (dict(net.named_parameters()), net.state_dict()):
        with pytest.raises(ValueError, match="snapshot"):
            losses.l2_sp(net, start)


def test_l2_sp_names_what_does_not_fit():
    net, start = network(), losses.snapshot(network())
    with pytest.raises(ValueError, match=r"without \['2.weight'\].*model.backbone"):
        losses.l2_sp(net, {n: w for n, w in start.items() if n != "2.weight"})
    with pytest.raises(ValueError, match="unknown.*3.weight"):
        losses.l2_sp(net, start | {"3.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"'2.bias'.*\(3,\).*\(2,\)"):
        losses.l2_sp(net, start | {"2.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="without parameters"):
        losses.l2_sp(nn.ReLU(), {})


def test_l2_sp_of_half_precision_weights_does_not_overflow():
    net = nn.Linear(53, 59).half()
    start = losses.snapshot(net)
    with torch.no_grad():
        net.weight.add_(16)
    assert losses.l2_sp(net, start).item() == pytest.approx(0.5 * 53 * 59 * 256, rel=1e-3)  # past 65504


@pytest.mark.parametrize("n, d", [(11, 7), (7, 11)])
def test_spectral_shrinkage_is_the_sum_of_the_smallest_squared_singular_values(n, d):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = np.linalg.svd(z.numpy(), full_matrices=False)
    for k in (1, 3):
        loss = lambda z, k=k: losses.batch_spectral_shrinkage(z, k=k)  # noqa: E731
        assert loss(z).item() == pytest.approx((s[-k:] ** 2).sum(), rel=1e-10)
        expected = 2 * (u[:, -k:] * s[-k:]) @ vt[-k:]
        np.testing.assert_allclose(gradient(loss, z).numpy(), expected, atol=1e-10)
        assert torch.autograd.gradcheck(loss, z.clone().requires_grad_())


def test_spectral_shrinkage_of_all_values_is_the_squared_norm():
    z = batch(35)[0]
    torch.testing.assert_close(losses.batch_spectral_shrinkage(z, k=D), z.square().sum())
    torch.testing.assert_close(gradient(lambda z: losses.batch_spectral_shrinkage(z, k=D), z), 2 * z)


@pytest.mark.parametrize("z", [torch.eye(7), torch.zeros(11, 7), torch.ones(11, 7)], ids=["equal", "zero", "rank1"])
def test_spectral_shrinkage_has_a_finite_gradient_at_repeated_singular_values(z):
    g = gradient(lambda z: losses.batch_spectral_shrinkage(z, k=3), z)
    assert g.isfinite().all() and g.norm() <= 2 * math.sqrt(3) + 1e-4


def test_spectral_shrinkage_names_wrong_settings_and_takes_half_precision():
    z = batch(36)[0]
    for k in (0, D + 1):
        with pytest.raises(ValueError, match=f"k={k}.*{D}"):
            losses.batch_spectral_shrinkage(z, k=k)
    with pytest.raises(ValueError, match="floating features"):
        losses.batch_spectral_shrinkage(z[:, :, None], k=1)
    half = losses.batch_spectral_shrinkage(z.bfloat16(), k=2)
    torch.testing.assert_close(
        half.double(), losses.batch_spectral_shrinkage(z.bfloat16().double(), k=2), rtol=1e-4, atol=0
    )
