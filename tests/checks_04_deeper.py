"""Right and wrong answers to the exercises of 04, going deeper. WRONG: (answer, words that the checker must say)."""

import torch
import torch.nn.functional as F


def _adds(w, v, gradient, lr, momentum):
    v = momentum * v + gradient
    return w - lr * v, v


def _in_place(w, v, gradient, lr, momentum):
    v.mul_(momentum).add_(gradient)
    return [w.add_(v, alpha=-lr), v]


def _numbers(w, v, gradient, lr, momentum):
    v = [momentum * a + b for a, b in zip(v.tolist(), gradient.tolist(), strict=True)]
    return [a - lr * b for a, b in zip(w.tolist(), v, strict=True)], v


def _outer(logits, z, y):
    return (logits.softmax(1) - F.one_hot(y, logits.shape[1]))[:, :, None] * z[:, None, :]


def _einsum(logits, z, y):
    error = logits.softmax(1)
    error[torch.arange(len(y)), y] -= 1
    return torch.einsum("nk,nd->nkd", error, z)


def _functional(logits, z, y):
    def loss(W, row, offset, label):
        return F.cross_entropy((W @ row + offset)[None], label[None])

    W = torch.zeros(logits.shape[1], z.shape[1], dtype=z.dtype)
    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(W, z, logits, y)


RIGHT = {
    "04.momentum": [_adds, _in_place, _numbers],
    "04.per_sample": [_outer, _einsum, _functional],
}


WRONG = {
    "04.momentum": [
        (lambda w, v, g, lr, m: (w + m * v - lr * g, m * v - lr * g), "once it changes"),
        (lambda w, v, g, lr, m: (w - lr * g, v), "without momentum"),
        (lambda w, v, g, lr, m: (w - lr * (m * v + g), v), "without momentum"),
        (lambda w, v, g, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g), "averages"),
        (lambda w, v, g, lr, m: (w - lr * v, m * v + g), "old v"),
        (lambda w, v, g, lr, m: (w + lr * (m * v + g), m * v + g), "climbs"),
        (lambda w, v, g, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g), "Nesterov"),
        (lambda w, v, g, lr, m: (m * v + g, w - lr * (m * v + g)), "expected"),
        (lambda w, v, g, lr, m: w - lr * (m * v + g), "the pair (w, v)"),
    ],
    "04.per_sample": [
        (lambda logits, z, y: -_outer(logits, z, y), "uphill"),
        (lambda logits, z, y: _outer(logits, z, y) / len(y), "share of the mean"),
        (lambda logits, z, y: _outer(logits, z, y).sum(0), "sum over the rows"),
        (lambda logits, z, y: _outer(logits, z, y).mean(0), "mean over the rows"),
        (lambda logits, z, y: _outer(logits, z, y).transpose(1, 2), "shape (K, D)"),
        (lambda logits, z, y: logits.softmax(1)[:, :, None] * z[:, None], "one-hot"),
        (lambda logits, z, y: (logits - F.one_hot(y, logits.shape[1]))[:, :, None] * z[:, None], "probabilities"),
        (lambda logits, z, y: z.T @ logits, "shape"),
    ],
}
