"""More answers to notebook 10, going deeper, written from their texts alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch
import torch.nn.functional as F


def _look(*, low=-torch.inf, seen=lambda m: m[:, None], after=lambda s: s.softmax(-1), scale=1.0):
    return lambda scores, mask: after((scale * scores).masked_fill(~seen(mask), low))


def _look_numpy(scores, mask):
    s = np.where(mask.numpy()[:, None], scores.numpy(), -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _look_sdpa(scores, mask):
    """PyTorch's own attention with values that are the unit vectors: what comes out are the weights"""
    T = scores.shape[-1]
    bias = scores.masked_fill(~mask[:, None], -torch.inf)
    zero, unit = torch.zeros_like(scores), torch.eye(T, dtype=scores.dtype).expand_as(scores)
    return F.scaled_dot_product_attention(zero, zero, unit, attn_mask=bias, scale=1.0)


def _look_logsumexp(scores, mask):
    s = scores + mask[:, None].to(scores.dtype).log()
    return (s - s.logsumexp(-1, keepdim=True)).exp()


def _grad(*, of_A=lambda G, A, B: B.T @ G, of_B=lambda G, A, B: G @ A.T, scale=lambda a, A: a / len(A)):
    return lambda G, A, B, alpha: (scale(alpha, A) * of_A(G, A, B), scale(alpha, A) * of_B(G, A, B))


def _grad_numpy(G, A, B, alpha):
    G, A, B = G.numpy(), A.numpy(), B.numpy()
    return alpha / A.shape[0] * np.dot(B.T, G), alpha / A.shape[0] * np.dot(G, A.T)


def _grad_backward(G, A, B, alpha):
    a, b = (v.detach().clone().requires_grad_(True) for v in (A, B))
    (alpha / A.shape[0] * (b @ a)).backward(G)
    return a.grad, b.grad


def _fair(*, cell=lambda v: v.double().mean(), two=lambda a, b: (a + b) / 2, size=len,
          total=lambda parts, n: sum(v * k for v, k in parts) / n):  # fmt: skip
    def accuracy(right, y, subjects):
        parts = []
        for name in sorted(set(subjects)):
            at = torch.tensor([i for i, s in enumerate(subjects) if s == name])
            parts.append((two(*(cell(right[at][y[at] == k]) for k in (0, 1))), size(at)))
        return total(parts, len(right))

    return accuracy


def _fair_numpy(right, y, subjects):
    right, y, s = right.numpy(), y.numpy(), np.array(subjects)
    shares = [(s == name).mean() * np.mean([right[(s == name) & (y == k)].mean() for k in (0, 1)]) for name in set(s)]
    return np.sum(shares)


RIGHT = {
    "10.attend": [
        _look(),
        _look_numpy,
        _look_sdpa,
        _look_logsumexp,
        _look(low=torch.finfo(torch.float32).min),
        lambda s, m: F.softmax(s.masked_fill(m.logical_not().unsqueeze(1), -1e9), dim=-1),
    ],
    "10.lora_gradients": [
        _grad(),
        _grad_numpy,
        _grad_backward,
        lambda G, A, B, alpha: [alpha / len(A) * (G.mT @ B).mT, alpha * (G @ A.mT) / len(A)],
        lambda G, A, B, alpha: (B.T.matmul(G).mul(alpha).div(A.shape[0]), G.matmul(A.T).mul(alpha).div(A.shape[0])),
    ],
    "10.within": [
        _fair(),
        _fair_numpy,
        _fair(cell=lambda v: v.sum() / v.numel()),
        _fair(total=lambda parts, n: torch.stack([v * k for v, k in parts]).sum() / sum(k for _, k in parts)),
        lambda right, y, subjects: np.average(
            [_fair()(*_part(right, y, subjects, s)) for s in sorted(set(subjects))],
            weights=[list(subjects).count(s) for s in sorted(set(subjects))]),
    ],
}  # fmt: skip


def _part(right, y, subjects, name):
    at = [i for i, s in enumerate(subjects) if s == name]
    return right[at], y[at], [name] * len(at)


SLIPS = {
    "10.attend": [
        (_look(low=0.0), "0 for −∞"),
        (_look(low=-1.0), "−1 for −∞"),
        (_look(low=-5.0), "−5 for −∞"),
        (_look(low=torch.nan), "NaN"),
        (_look(seen=lambda m: m[..., None]), "rows"),
        (_look(seen=lambda m: ~m[:, None]), "turned round"),
        (_look(seen=lambda m: torch.ones_like(m)[:, None]), "no mask"),
        (_look(seen=lambda m: m[:, None] & ~m[..., None]), "of padding alone"),
        (_look(after=lambda s: s.softmax(1)), "columns"),
        (_look(after=lambda s: s.softmax(0)), "texts"),
        (_look(after=lambda s: s.flatten(1).softmax(-1).view_as(s)), "one softmax a text"),
        (_look(after=lambda s: s.log_softmax(-1)), "logarithm"),
        (_look(after=lambda s: s.exp()), "not divided"),
        (_look(after=lambda s: F.one_hot(s.argmax(-1), s.shape[-1]).double()), "hard"),
        (_look(scale=0.5), "scaled twice"),
        (_look(scale=-1.0), "sign"),
        (lambda s, m: s.softmax(-1).masked_fill(~m[:, None], 0), "too late"),
        (lambda s, m: s.masked_fill_(~m[:, None], -torch.inf).softmax(-1), "changes the scores"),
        (lambda s, m: s.masked_fill(~m[:, None], -torch.inf).softmax(-1).mT, "transposed"),
    ],
    "10.lora_gradients": [
        (_grad(scale=lambda a, A: 1), "no scale"),
        (_grad(scale=lambda a, A: a), "α"),
        (_grad(scale=lambda a, A: 1 / len(A)), "1 / r"),
        (_grad(scale=lambda a, A: a / A.shape[1]), "α / Q"),
        (_grad(scale=lambda a, A: a / len(A) ** 0.5), "α / √r"),
        (_grad(scale=lambda a, A: (a / len(A)) ** 2), "scale twice"),
        (_grad(scale=lambda a, A: -a / len(A)), "minus"),
        (_grad(of_A=lambda G, A, B: G @ A.T, of_B=lambda G, A, B: B.T @ G), "exchanged"),
        (_grad(of_A=lambda G, A, B: (B.T @ G).T), "A transposed"),
        (_grad(of_B=lambda G, A, B: (G @ A.T).T), "B transposed"),
        (_grad(of_A=lambda G, A, B: B @ G), "shapes"),
        (_grad(of_A=lambda G, A, B: torch.zeros_like(A)), "A stands still"),
        (_grad(of_B=lambda G, A, B: torch.zeros_like(B)), "B stands still"),
        (_grad(of_A=lambda G, A, B: B.T @ G / G.shape[0]), "mean over the rows"),
        (_grad(of_B=lambda G, A, B: G @ A.T + B), "weight decay"),
        (lambda G, A, B, alpha: alpha / len(A) * G, "of the merged matrix"),
    ],
    "10.within": [
        (_fair(size=lambda at: 1), "divided by n, not weighed"),
        (_fair(two=lambda a, b: a), "negative ones alone"),
        (_fair(two=lambda a, b: b), "positive ones alone"),
        (_fair(two=lambda a, b: a + b), "not halved"),
        (_fair(two=torch.minimum), "the worse"),
        (_fair(two=torch.maximum), "the better"),
        (_fair(two=lambda a, b: (a * b).sqrt()), "geometric mean"),
        (_fair(total=lambda parts, n: sum(v for v, _ in parts) / len(parts)), "all subjects alike"),
        (_fair(total=lambda parts, n: sum(v for v, _ in parts)), "added up"),
        (_fair(total=lambda parts, n: max(v for v, _ in parts)), "the best subject"),
        (_fair(total=lambda parts, n: 100 * sum(v * k for v, k in parts) / n), "percent"),
        (_fair(cell=lambda v: (~v).double().mean()), "errors"),
        (lambda right, y, subjects: right.double().mean(), "plain"),
        (lambda right, y, subjects: (right == y).double().mean(), "right against y"),
        (lambda right, y, subjects: sum(right[y == k].double().mean() for k in (0, 1)) / 2, "classes over all"),
    ],
}  # fmt: skip
