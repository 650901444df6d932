"""Checkers of notebook 03."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import Wrong, checker, expect, numeric, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@checker("03.cosine_gradient")
def _cosine_gradient(answer):
    """z (D,), mu (D,) of length 1 -> gradient (D,) of 1 - cos(z, mu) with respect to z"""
    for D, seed, size in ((3, 0, 2.0), (7, 1, 0.1), (11, 2, 50.0), (5, 3, -2.0), (5, 3, 2.0)):
        z, mu = size * _draw(D, seed=seed), F.normalize(_draw(D, seed=seed + 10), dim=0)
        unit, length = z / z.norm(), z.norm()
        cosine = unit @ mu
        want = (cosine * unit - mu) / length
        known = [
            (-want, "this is minus the gradient, the direction of a step; the gradient points uphill"),
            (want * length, "the division by the length of z is missing"),
            (-mu / length, "this leaves out that the length of z changes too: subtract the part of mu along z"),
            (-mu, "this is the gradient of 1 - z·mu; the cosine also divides by the length of z"),
            ((cosine * z - mu) / length, "in cos θ · ẑ the vector is the unit vector ẑ, not z"),
            (want / length, "this divides by the length of z twice"),
            ((mu - cosine * unit) / length**2, "this points downhill, and divides by the length of z twice"),
            ((cosine.abs() * unit - mu) / length, "a negative cosine keeps its sign"),
            ((cosine.relu() * unit - mu) / length, "a negative cosine is not 0"),
        ]
        got = answer(z.clone(), mu.clone())
        expect(f"z of {D} numbers and length {length:.3g}", got, want, known=known)
    for degrees in range(0, 360, 20):
        angle, mu = math.radians(degrees + 10), torch.tensor([math.cos(0.5), math.sin(0.5)])
        z = 3 * torch.tensor([math.cos(0.5 + angle), math.sin(0.5 + angle)])
        want = math.sin(angle) / 3 * torch.tensor([-math.sin(0.5 + angle), math.cos(0.5 + angle)])
        expect(f"z at {degrees + 10}° to mu", answer(z.clone(), mu.clone()), want, tolerance=1e-4)


@checker("03.no_collapse")
def _no_collapse(answer):
    """z (N, D), y (N,), prototypes (K, D) -> scalar loss that keeps learned prototypes apart"""
    x, y = _three_heaps()
    z0, prototypes0 = _draw(len(y), 2, seed=7), _draw(3, 2, seed=8)
    value = answer(z0, y, prototypes0)
    require(isinstance(value, torch.Tensor) and value.shape == (), "the loss must be a tensor with one number")
    order = torch.tensor([2, 0, 1])
    turned = answer(z0, order.argsort()[y], prototypes0[order])
    expect("classes renamed, prototypes with them: the loss", turned, value)
    _has_a_bottom(answer, z0, y, prototypes0)
    W = torch.tensor([[0.5, 0.1, 2.0], [0.1, 0.5, 0.3]], dtype=torch.float64, requires_grad=True)
    prototypes = _draw(3, 2, seed=1).requires_grad_()
    optimizer = torch.optim.SGD([W, prototypes], lr=0.1, momentum=0.9)
    for _ in range(120):
        optimizer.zero_grad()
        loss = answer(x @ W.T, y, prototypes)
        if not loss.requires_grad:
            raise Wrong("the loss has no gradient; compute it from z and prototypes without detach or item")
        loss.backward()
        optimizer.step()
    moved = prototypes.grad is not None and not torch.equal(prototypes.detach(), _draw(3, 2, seed=1))
    require(moved, "no gradient reaches the prototypes; they are to learn too, so do not detach them")
    _judge_training(x @ W.T.detach(), y, prototypes.detach())


def _has_a_bottom(answer, z, y, drawn):
    """No loss may fall without end when features or prototypes only grow longer, or run away from each other"""
    corners = torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]], dtype=torch.float64)
    only_one = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    why = "this loss has no bottom: it falls for ever as {} grow longer. Compare directions, or stop at a margin"
    for prototypes in (drawn, corners):
        for what, grown_z, grown in (
            ("prototypes", 0, 1),
            ("prototypes", 0, only_one),
            ("features", 1, 0),
            ("they", 1, 1),
        ):
            near, far = (float(answer(z * (1 + s * grown_z), y, prototypes * (1 + s * grown))) for s in (1e3, 1e8))
            require(not far < near - 5, why.format(what))


def _judge_training(z, y, prototypes):
    mu = F.normalize(prototypes, dim=1)
    cosines = mu @ mu.T
    closest = cosines[~torch.eye(3, dtype=torch.bool)].max().item()
    right = ((F.normalize(z, dim=1) @ mu.T).argmax(1) == y).double().mean().item()
    found = f"the largest cosine between two prototypes is {closest:.3f}, {right:.0%} are nearest to their own"
    require(closest < 0.9, f"after 120 steps the prototypes have collapsed: {found}; push them apart in the loss")
    require(right > 0.9, f"after 120 steps the prototypes are apart but the features do not follow: {found}")


def _three_heaps():
    """x (33, 3): three heaps, and a last coordinate that all share, as features after a ReLU do; y (33,)"""
    y = torch.arange(33) % 3
    corners = torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]], dtype=torch.float64)
    heaps = corners[y] + 0.15 * _draw(33, 2, seed=3)
    return torch.cat([heaps, torch.ones(33, 1, dtype=torch.float64)], dim=1), y


@checker("03.simplex")
def _simplex(answer):
    """K -> K unit rows whose inner products are all -1/(K-1)"""
    for K in (3, 2, 7, 5):
        got = answer(K)
        got = numeric(f"K={K}", got)
        require(got.ndim == 2 and len(got) == K, f"K={K}: got shape {tuple(got.shape)}, expected {K} rows")
        gram = got @ got.T
        off = gram[~torch.eye(K, dtype=torch.bool)]
        if (off.abs() < 1e-6).all():
            raise Wrong(f"K={K}: the rows are at right angles; push them further: subtract their mean, then normalise")
        expect(f"K={K}: squared lengths of the rows", gram.diagonal(), torch.ones(K), tolerance=1e-4)
        expect(f"K={K}: inner products of different rows", off, torch.full_like(off, -1 / (K - 1)), tolerance=1e-4)


@checker("03.normface_bound")
def _normface_bound(answer):
    """K classes, scale s -> the lowest cross-entropy that cosines times s can reach"""
    for K, s in ((5, 4.0), (7, 1.5), (2, 1.0), (3, 16.0), (13, 1.0)):  # the first tells all mistakes apart
        rows = torch.cat([torch.eye(K, dtype=torch.float64)]) - 1 / K
        rows = F.normalize(rows, dim=1)  # the best there is: every feature on its corner of the simplex
        want = F.cross_entropy(s * rows @ rows.T, torch.arange(K)).item()
        known = [
            (math.log(1 + (K - 1) * math.exp(-s)), "here the others' cosine is 0; a simplex brings it to -1/(K-1)"),
            (math.log(1 + (K - 1) * math.exp(-2 * s)), "K directions cannot all be opposite; only K = 2 reaches -1"),
            (math.exp(-want), "this is the largest probability; the loss is minus its logarithm"),
            (math.log(K), "this is the loss when all scores are equal; the bound is what remains at best"),
            (math.log(1 + math.exp(-s * K / (K - 1))), "there are K - 1 other classes in the sum, not one"),
            (want / math.log(2), "this is in bits; nats use the natural logarithm"),
            (want / math.log(10), "this is the logarithm to base 10; nats use the natural logarithm"),
            (-want, "the sign is turned; the loss is minus the logarithm of a probability"),
            (math.expm1(want), "the logarithm is missing"),
            (want + s, "this is the logarithm of the sum below the fraction line; take off the own score, s · 1"),
            (_bound(K, s * K / (K - 1)), "there are K - 1 other classes in the sum, not K"),
            (_bound(K - 1, s / (K - 1)), "the power is the *difference* of the two scores; the own score is missing"),
            (_bound(K - 1, s * (K - 2) / (K - 1)), "the power is the *difference* of the two scores, not their sum"),
            (_bound(K - 1, s * (K - 1) / K), "the fraction is upside down: 1 + 1/(K-1) = K/(K-1)"),
            (_bound(K - 1, K / (K - 1)), "the scale s is missing"),
            (_bound(K - 1, K / (K - 1) / s), "the cosines are multiplied by s, not divided"),
            (
                _bound(K - 1, -s * K / (K - 1)),
                "the sign of the power is turned: the others score less than the own class",
            ),
        ]
        expect(f"K={K}, s={s:g}", answer(K, s), want, tolerance=1e-5, known=known if (K, s) == (5, 4.0) else ())


def _bound(others, difference):
    return math.log(1 + others * math.exp(-difference))


@checker("03.contrastive")
def _contrastive(answer):
    """z (N, D), y (N,), temperature -> scalar, the mean over anchors that have a positive"""
    cases = (
        ("every sample has a partner", torch.tensor([0, 1, 0, 1, 1, 0, 0]), 0.5),
        ("one class appears once", torch.tensor([0, 2, 0, 1, 1, 0, 1]), 0.3),
        ("one class only", torch.zeros(5, dtype=torch.long), 1.0),
    )
    for number, (named, y, temperature) in enumerate(cases):
        z = (1 + number) * _draw(len(y), 3, seed=number)
        want = _pairs(z, y, temperature)
        known = [
            (_pairs(z, y, temperature, anchors=len(y)), "anchors without a positive are not counted in the mean"),
            (_pairs(z, y, temperature, itself=True), "the sum below must leave out the anchor itself (a ≠ i)"),
            (_pairs(z, y, temperature, normalise=False), "z must be normalised first: divide each row by its length"),
            (_pairs(z, y, 1.0), "the similarities must be divided by the temperature"),
            (_pairs(z, y, 1 / temperature), "divide by the temperature; this multiplies"),
            (-want, "the sign is turned; the loss is minus the logarithm"),
            (_pairs(z, y, temperature, inside=True), "the mean over positives stands outside the logarithm here"),
            (_pairs(z, y, temperature, summed=True), "divide by the number of positives of each anchor"),
        ]
        expect(named, answer(z.clone(), y.clone(), temperature), want, known=known)
        _passes_the_gradient_on(answer, z, y, temperature)


def _passes_the_gradient_on(answer, z, y, temperature):
    """A tensor must carry the gradient of the loss to z; a plain number cannot, and is let pass"""
    leaf, own = z.clone().requires_grad_(), z.clone().requires_grad_()
    try:
        loss = answer(leaf, y.clone(), temperature)
    except RuntimeError:  # numpy() of what requires a gradient
        return
    if isinstance(loss, torch.Tensor):
        require(loss.requires_grad, "the loss moves nothing: compute it from z without detach, item or no_grad")
        (got,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        (want,) = torch.autograd.grad(_pairs(own, y, temperature), own)
        why = "the value is right, its gradient is not: is a part of it detached? First entry that differs"
        expect(why, torch.zeros_like(want) if got is None else got, want, tolerance=1e-4)


def _pairs(z, y, temperature, *, anchors=None, itself=False, normalise=True, inside=False, summed=False):
    """The loss with masks; the keywords switch single mistakes on."""
    u = F.normalize(z, dim=1) if normalise else z
    own = torch.eye(len(y), dtype=torch.bool)
    s = u @ u.T / temperature
    log_p = s - (s if itself else s.masked_fill(own, -torch.inf)).logsumexp(1, keepdim=True)  # (N, N)
    positive = (y[:, None] == y) & ~own
    n = positive.sum(1)
    has = n > 0
    if inside:
        terms = -(log_p.exp() * positive).sum(1)[has].div(n[has]).log()
    else:
        terms = -(log_p * positive).sum(1)[has] / (1 if summed else n[has])
    return terms.sum() / (anchors or has.sum())
