"""Checkers of notebook 03, going deeper: the lowest loss of scaled cosines, supervised contrastive."""

import math

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, require


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
            (_pairs(z, y, temperature, rivals="negatives"), "the sum below has all others, positives included"),
            (_pairs(z, y, temperature, rivals="one"), "the sum below has all positives, not this one alone"),
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


def _pairs(
    z, y, temperature, *, anchors=None, itself=False, normalise=True, inside=False, summed=False, rivals="all others"
):
    """The loss with masks; the keywords switch single mistakes on."""
    u = F.normalize(z, dim=1) if normalise else z
    own = torch.eye(len(y), dtype=torch.bool)
    s = u @ u.T / temperature
    positive = (y[:, None] == y) & ~own
    below = (s if itself else s.masked_fill(own, -torch.inf)).logsumexp(1, keepdim=True)  # (N, 1)
    if rivals != "all others":
        below = s.masked_fill(own | positive, -torch.inf).logsumexp(1, keepdim=True)
    log_p = s - (torch.logaddexp(s, below) if rivals == "one" else below)  # (N, N)
    n = positive.sum(1)
    has = n > 0
    if inside:
        terms = -(log_p.exp() * positive).sum(1)[has].div(n[has]).log()
    else:
        terms = -(log_p * positive).sum(1)[has] / (1 if summed else n[has])
    return terms.sum() / (anchors or has.sum())
