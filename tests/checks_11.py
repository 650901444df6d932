"""Right and wrong answers to the exercises of notebook 11. WRONG: (answer, words that the checker must say)."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _loss_loop(logits, ids, counts):
    log_p, total, n = logits.log_softmax(-1), 0.0, 0
    for i in range(len(ids)):
        for t in range(1, ids.shape[1]):
            if counts[i, t]:
                total, n = total - float(log_p[i, t - 1, ids[i, t]]), n + 1
    return total / n


def _ignored(logits, ids, counts):
    labels = ids.masked_fill(~counts, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels)


def _gathered(logits, ids, counts):
    nats = logits[:, :-1].logsumexp(2) - logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return (nats * counts[:, 1:]).sum() / counts[:, 1:].sum()


def _selected(logits, ids, counts):
    return F.cross_entropy(logits[:, :-1][counts[:, 1:]], ids[:, 1:][counts[:, 1:]])


def _per_token(logits, ids, counts):
    nats = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[2]), ids[:, 1:].flatten(), reduction="none")
    return nats[counts[:, 1:].flatten()].mean().item()


def _row_means(logits, ids, counts):
    return sum(_ignored(a[None], b[None], c[None]) for a, b, c in zip(logits, ids, counts, strict=True)) / len(ids)


def _parts(means, counts):
    return [(m, n) for m, n in zip(means.tolist(), counts.tolist(), strict=True) if n]


def _drawn(logits, tau):
    if tau == 0:
        return F.one_hot(logits.argmax(), len(logits)).double()
    e = ((logits - logits.max()) / tau).exp()
    return e / e.sum()


RIGHT = {
    "11.answer_loss": [_loss_loop, _ignored, _gathered, _selected, _per_token],
    "11.step_loss": [
        lambda means, counts: (means.nan_to_num() * counts).sum() / counts.sum(),
        lambda means, counts: (means[counts > 0] * counts[counts > 0]).sum() / counts.sum(),
        lambda means, counts: sum(m * n for m, n in _parts(means, counts)) / sum(n for _, n in _parts(means, counts)),
        lambda means, counts: np.average(means[counts > 0].numpy(), weights=counts[counts > 0].numpy()),
        lambda means, counts: torch.where(counts > 0, means * counts, 0.0).sum().item() / int(counts.sum()),
    ],
    "11.temperature": [
        _drawn,
        lambda logits, tau: (logits / tau).softmax(0) if tau > 0 else torch.eye(len(logits))[logits.argmax()],
        lambda logits, tau: (logits / max(tau, 1e-12)).softmax(-1),
        lambda logits, tau: F.softmax(logits / tau, 0) if tau else (logits == logits.max()).double(),
        lambda logits, tau: np.eye(len(logits))[int(logits.argmax())] if not tau
        else torch.nn.Softmax(0)(logits.mul(1 / tau)).numpy(),
    ],
}  # fmt: skip
WRONG = {
    "11.answer_loss": [
        (lambda a, b, c: F.cross_entropy(a.transpose(1, 2), b.masked_fill(~c, -100)), "shift one of them"),
        (lambda a, b, c: F.cross_entropy(a[:, :-1].transpose(1, 2), b[:, 1:]), "those of the prompt do not count"),
        (lambda a, b, c: F.cross_entropy(a[:, 1:].transpose(1, 2), b.masked_fill(~c, -100)[:, :-1]), "expected"),
        (lambda a, b, c: F.cross_entropy(a[:, :-1].transpose(1, 2), b[:, 1:].masked_fill(~c[:, :-1], -100)),
         "`counts` is not"),
        (_row_means, "mean of the rows' means"),
        (lambda a, b, c: _gathered(a, b, c) * c[:, 1:].sum(), "this is the sum"),
        (lambda a, b, c: -_gathered(a, b, c), "the sign"),
        (lambda a, b, c: _gathered(a, b, c) / math.log(2), "in bits"),
        (lambda a, b, c: _gathered(a, b, c) * c[:, 1:].sum() / len(b), "divides by the rows"),
        (lambda a, b, c: _gathered(a, b, ~c), "do not count"),
        (lambda a, b, c: _gathered(a.softmax(2), b, c), "softmax is taken twice"),
        (lambda a, b, c: -(a.exp() / a.exp().sum(2, keepdim=True)).log()[:, :-1].gather(2, b[:, 1:, None])[..., 0][
            c[:, 1:]].mean(), "log_softmax"),
        (lambda a, b, c: -(a.softmax(2)[:, :-1].gather(2, b[:, 1:, None])[..., 0] + 1e-8).log()[c[:, 1:]].mean(),
         "log_softmax"),
    ],
    "11.step_loss": [
        (lambda means, counts: means.nanmean(), "averages the means"),
        (lambda means, counts: (means.nan_to_num() * counts).sum(), "this is the sum"),
        (lambda means, counts: (means.nan_to_num() * counts).mean(), "divides by the parts"),
        (lambda means, counts: means.nan_to_num().sum(), "adds up means"),
        (lambda means, counts: (means * counts).sum() / counts.sum(), "NaN"),
        (lambda means, counts: means.median(), "expected"),
        (lambda means, counts: (means.nan_to_num() * counts).sum() / counts.max(), "expected"),
        (lambda means, counts: means[0], "expected"),
    ],
    "11.temperature": [
        (lambda logits, tau: (logits * tau).softmax(0), "divided by τ"),
        (lambda logits, tau: logits.softmax(0) / tau, "before softmax"),
        (lambda logits, tau: (logits / tau).softmax(0), "for certain"),
        (lambda logits, tau: (logits / (1 + tau)).softmax(0), "expected"),
        (lambda logits, tau: torch.eye(5)[logits.argmax()], "expected"),
        (lambda logits, tau: logits.softmax(0), "τ is not used"),
        (lambda logits, tau: (logits / (tau or 1)).softmax(0), "softmax at τ = 1"),
        (lambda logits, tau: (logits / tau).softmax(0) if tau else torch.ones(len(logits)) / len(logits), "alike"),
        (lambda logits, tau: (logits / tau).softmax(0) if tau else torch.eye(len(logits))[2], "τ = 0"),
        (lambda logits, tau: _drawn(logits, tau).log(), "logarithms"),
        (lambda logits, tau: (logits / tau).exp() if tau else _drawn(logits, tau), "add up to 1"),
        (lambda logits, tau: logits.softmax(0) ** (1 / tau) if tau else _drawn(logits, tau), "add up to 1"),
        (lambda logits, tau: (logits / tau).exp() / (logits / tau).exp().sum() if tau else _drawn(logits, tau),
         "thousands"),
    ],
}  # fmt: skip
