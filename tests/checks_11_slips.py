"""More answers to the exercises of notebook 11, written from their text alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


def _nats(logits, ids, *, at=lambda a: a[:, :-1], of=lambda b: b[:, 1:]):
    """-log p of each token but the first, (N, T - 1)"""
    return -at(logits).log_softmax(-1).gather(-1, of(ids).unsqueeze(-1)).squeeze(-1)


def _mean(*, mask=lambda c: c[:, 1:], over=lambda nats, m: (nats * m).sum() / m.sum(), **how):
    return lambda logits, ids, counts: over(_nats(logits, ids, **how), mask(counts))


def _numpy_loss(logits, ids, counts):
    a = logits.numpy()[:, :-1]
    a = a - a.max(-1, keepdims=True)
    log_p = a - np.log(np.exp(a).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, ids.numpy()[:, 1:, None], -1)[..., 0]
    return -picked[counts.numpy()[:, 1:]].mean()


def _rolled(logits, ids, counts):
    labels = torch.where(counts, ids, -100).roll(-1, 1)
    labels[:, -1] = -100
    return F.nll_loss(logits.log_softmax(2).movedim(2, 1), labels)


def _step(*, weight=lambda n: n, over=lambda m, n: (m * n).sum() / n.sum()):
    def loss(means, counts):
        there = counts > 0
        return over(means[there], weight(counts[there].double()))

    return loss


def _temperature(*, scale=lambda a, tau: a / tau, then=lambda p: p, cold=lambda a: torch.eye(len(a))[a.argmax()]):
    return lambda logits, tau: then(scale(logits, tau).softmax(0)) if tau else cold(logits).double()


RIGHT = {
    "11.answer_loss": [
        _mean(),
        _mean(over=lambda nats, m: nats[m].mean()),
        _numpy_loss,
        _rolled,
        lambda logits, ids, counts: torch.distributions.Categorical(logits=logits[:, :-1])
        .log_prob(ids[:, 1:])[counts[:, 1:]].mean().neg(),
        lambda logits, ids, counts: F.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].where(counts[:, 1:], torch.tensor(-100)).flatten()
        ).item(),
    ],
    "11.step_loss": [
        _step(),
        lambda means, counts: float(torch.nansum(means * counts) / counts.sum()),
        lambda means, counts: sum(float(m) * int(n) for m, n in zip(means, counts, strict=True) if n) / counts.sum(),
        lambda means, counts: torch.dot(means.nan_to_num(), counts.double() / counts.sum()),
        lambda means, counts: np.nansum(means.numpy() * counts.numpy()) / counts.numpy().sum(),
    ],
    "11.temperature": [
        _temperature(),
        _temperature(cold=lambda a: (torch.arange(len(a)) == a.argmax())),
        lambda logits, tau: torch.softmax(logits / (tau or 1e-9), dim=0),
        lambda logits, tau: (logits / tau).log_softmax(0).exp() if tau > 0 else F.one_hot(logits.argmax(), len(logits)),
        lambda logits, tau: torch.distributions.Categorical(logits=logits / tau).probs if tau
        else torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0),
    ],
}  # fmt: skip
SLIPS = {
    "11.answer_loss": [
        (_mean(at=lambda a: a, of=lambda b: b, mask=lambda c: c), "not shifted"),
        (_mean(at=lambda a: a[:, 1:], of=lambda b: b[:, :-1]), "shifted the wrong way"),
        (_mean(at=lambda a: a[:, :-2], of=lambda b: b[:, 2:], mask=lambda c: c[:, 2:]), "shifted by two"),
        (_mean(mask=lambda c: c[:, :-1]), "mask not shifted"),
        (_mean(mask=lambda c: torch.ones_like(c[:, 1:])), "all tokens"),
        (_mean(mask=lambda c: ~c[:, 1:]), "the prompt's tokens"),
        (_mean(over=lambda n, m: (n * m).sum() / m.numel()), "divided by all"),
        (_mean(over=lambda n, m: (n * m).sum() / len(m)), "divided by the rows"),
        (_mean(over=lambda n, m: (n * m).sum()), "the sum"),
        (_mean(over=lambda n, m: ((n * m).sum(1) / m.sum(1)).mean()), "mean of means"),
        (_mean(over=lambda n, m: -(n * m).sum() / m.sum()), "the sign"),
        (_mean(over=lambda n, m: n[m].median()), "the median"),
        (_mean(over=lambda n, m: (n[m] / math.log(2)).mean()), "bits"),
        (_mean(over=lambda n, m: n[m].mean().exp()), "perplexity"),
        (_mean(at=lambda a: a[:, :-1].softmax(-1)), "softmax twice"),
        (_mean(over=lambda n, m: (n * m)[:, :-1].sum() / m.sum()), "the end of the turn left out"),
    ],
    "11.step_loss": [
        (_step(over=lambda m, n: m.mean()), "mean of means"),
        (_step(over=lambda m, n: (m * n).sum()), "the sum"),
        (_step(over=lambda m, n: m.sum()), "sum of means"),
        (_step(over=lambda m, n: (m * n).mean()), "divided by the parts"),
        (_step(weight=lambda n: n**2), "squares"),
        (_step(weight=lambda n: n.sqrt()), "square roots"),
        (_step(weight=lambda n: n + 1), "one more each"),
        (_step(weight=lambda n: 1 / n), "upside down"),
        (_step(over=lambda m, n: (m * n).sum() / n.max()), "the longest"),
        (_step(over=lambda m, n: m.max()), "the worst"),
        (_step(over=lambda m, n: m[-1]), "the last"),
        (lambda means, counts: (means * counts).sum() / counts.sum(), "NaN"),
        (_step(over=lambda m, n: (m / n).sum()), "divided by its own count"),
    ],
    "11.temperature": [
        (_temperature(scale=lambda a, tau: a * tau), "times τ"),
        (_temperature(scale=lambda a, tau: a), "τ forgotten"),
        (_temperature(scale=lambda a, tau: a / tau**2), "τ squared"),
        (_temperature(scale=lambda a, tau: a - tau), "minus τ"),
        (_temperature(scale=lambda a, tau: a / (tau + 1)), "τ + 1"),
        (_temperature(then=lambda p: p.log()), "logarithms"),
        (_temperature(then=lambda p: 1 - p), "the others"),
        (_temperature(then=lambda p: p / p.max()), "the largest is 1"),
        (_temperature(cold=lambda a: a.softmax(0)), "0 as 1"),
        (_temperature(cold=lambda a: torch.ones(len(a)) / len(a)), "0 as infinite"),
        (_temperature(cold=lambda a: torch.eye(len(a))[a.argmin()]), "the least probable"),
        (_temperature(then=lambda p: p.flip(0)), "the wrong order"),
        (lambda logits, tau: (logits / tau).softmax(0), "0/0"),
        (
            lambda logits, tau: logits.softmax(0) / tau if tau else torch.eye(len(logits))[logits.argmax()],
            "after softmax",
        ),
    ],
}
