"""Checkers of notebook 04, going deeper: momentum, per-sample gradients."""

import torch
import torch.nn.functional as F

from sftlib.checks import checker, expect, pair, require


@checker("04.momentum", changes=(0, 1))
def _momentum(answer):
    """w, v, gradient (D,), lr, momentum -> (w, v): torch's form, v ← momentum v + gradient, w ← w − lr v"""
    for rates, what in (((0.1, 0.1, 0.1), "one α throughout"), ((0.1, 0.1, 0.02, 0.02), "α made smaller after step 2")):
        got, want = _walk(answer, rates), _walk(_torch_form, rates)
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            known = [(_walk(form, rates)[i], why) for form, why in KNOWN_FORMS]
            expect(f"w after step {i + 1}, {what}", a, b, known=known)


def _walk(form, rates):
    """form, rates (T,) -> the T points that momentum visits on ½ Σ λ w², λ = 1, 4, 9"""
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    w, v = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    points = []
    for lr in rates:
        result = pair(form(w.clone(), v.clone(), curvature * w, lr, 0.8), "the pair (w, v)")
        w, v = (torch.as_tensor(part, dtype=torch.float64) for part in result)
        points.append(w)
    return points


def _torch_form(w, v, gradient, lr, momentum):
    v = momentum * v + gradient
    return w - lr * v, v


KNOWN_FORMS = [
    (
        lambda w, v, g, lr, m: (w + m * v - lr * g, m * v - lr * g),
        "this keeps α inside v, as older texts do: the same path as long as α stays, another one once it changes",
    ),
    (lambda w, v, g, lr, m: (w - lr * g, v), "this is a step without momentum: is the new v used, and returned?"),
    (lambda w, v, g, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g), "this averages; torch adds up"),
    (lambda w, v, g, lr, m: (w - lr * v, m * v + g), "w moves with the old v; renew v first"),
    (lambda w, v, g, lr, m: (w + lr * (m * v + g), m * v + g), "this climbs: the step goes against v"),
    (lambda w, v, g, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g), "this is Nesterov's form, a step ahead"),
]


@checker("04.per_sample")
def _per_sample(answer):
    """logits (N, K), z (N, D), y (N,) -> (N, K, D): the gradient of each row's cross-entropy for W (K, D)"""
    for n, k, d, seed, size in ((5, 3, 7, 0, 1), (1, 2, 3, 1, 1), (3, 11, 2, 2, 1), (7, 5, 5, 3, 1), (5, 3, 2, 4, 900)):
        draw = torch.Generator().manual_seed(seed)
        logits, z = (torch.randn(n, m, generator=draw, dtype=torch.float64) for m in (k, d))
        y = torch.randint(k, (n,), generator=draw)
        logits = (size * logits + (size - 1) * torch.arange(n)[:, None]).T.contiguous().T  # rows of other heights
        want = torch.stack([_gradient_of_one(*row) for row in zip(logits, z, y, strict=True)])
        p, naive = logits.softmax(1), logits.exp() / logits.exp().sum(1, keepdim=True)
        known = [
            (-want, "the sign is turned round: a gradient points uphill"),
            (want / n, "this is each row's share of the mean; asked for is the gradient of each row's own loss"),
            (want.sum(0), "this is the sum over the rows; keep one gradient a row"),
            (want.mean(0), "this is the mean over the rows; keep one gradient a row"),
            (want.transpose(1, 2), "W has shape (K, D), so each gradient has too"),
            (p[:, :, None] * z[:, None], "the one-hot label is missing"),
            ((logits - F.one_hot(y, k))[:, :, None] * z[:, None], "these are logits where probabilities belong"),
        ]
        got = answer(logits.clone(), z.clone(), y.clone())
        if naive.isnan().any():
            why = "exp of a large logit is infinite: softmax and logsumexp take off each *row's* largest logit first"
            require(not torch.as_tensor(got).isnan().any(), f"{why} (logits up to {logits.max():.0f}: got nan)")
            known = []
        expect(f"N = {n}, K = {k}, D = {d}, logits up to {logits.max():.0f}", got, want, known=known)


def _gradient_of_one(logits, z, y):
    """logits (K,), z (D,), y -> (K, D) by autograd; the offset makes these logits those of W = 0"""
    W = torch.zeros(len(logits), len(z), dtype=z.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(W @ z + logits, y), W)
    return gradient
