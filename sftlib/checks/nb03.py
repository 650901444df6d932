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
    start = torch.tensor([[0.5, 0.1, 2.0], [0.1, 0.5, 0.3]], dtype=torch.float64)
    W = start.clone().requires_grad_()
    prototypes = _draw(3, 2, seed=1).requires_grad_()
    optimizer = torch.optim.SGD([W, prototypes], lr=0.1, momentum=0.9)
    for _ in range(120):
        optimizer.zero_grad()
        loss = answer(x @ W.T, y, prototypes)
        if not loss.requires_grad:
            raise Wrong("the loss has no gradient; compute it from z and prototypes without detach or item")
        loss.backward()
        optimizer.step()
    learned = prototypes.grad is not None and not torch.equal(prototypes.detach(), _draw(3, 2, seed=1))
    require(learned, "no gradient reaches the prototypes; they are to learn too, so do not detach them")
    moved = not torch.equal(W.detach(), start)
    require(moved, "the features do not follow the prototypes: no gradient reaches them; keep the cosine loss, with z")
    _judge_training(x @ W.T.detach(), y, prototypes.detach())
    _one_place_costs_more(answer)


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


def _one_place_costs_more(answer):
    """Features that stand on their own prototype, all in one place or in three: the one place must cost more"""
    apart, y = torch.tensor([[0.0, 1.0], [-0.8, -0.6], [0.8, -0.6]], dtype=torch.float64), torch.arange(6) % 3
    three = float(answer(apart[y], y, apart))
    try:
        one = float(answer(apart[[0] * 6], y, apart[[0] * 3]))
    except ValueError as error:
        if "prototype of length zero" not in str(error):
            raise
        return  # seen from their mean, prototypes in one place have no direction, which sftlib refuses
    why = "the prototypes stay apart here, but not by your loss: with all features and prototypes in one place it is"
    require(one > three, f"{why} {one:.4g}, with three places far apart {three:.4g}; make the one place cost more")


def _judge_training(z, y, prototypes):
    mu = F.normalize(prototypes, dim=1)
    cosines = mu @ mu.T
    closest = cosines[~torch.eye(3, dtype=torch.bool)].max().item()
    seen = (F.normalize(some, dim=1) @ mu.T for some in (z, z - z.mean(0)))  # the loss may centre the features
    right = max((cosine.argmax(1) == y).double().mean().item() for cosine in seen)
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
