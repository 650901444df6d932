"""Right and wrong answers to notebook 10, going deeper. WRONG: (answer, words that the checker must say)."""

import math

import torch


def _attend(scores, mask):
    return scores.masked_fill(~mask[:, None, :], float("-inf")).softmax(-1)


def _attend_by_loop(scores, mask):
    weights = torch.zeros_like(scores)
    for n in range(len(scores)):
        for t in range(scores.shape[1]):
            real = mask[n].nonzero().flatten().tolist()
            high = max(float(scores[n, t, s]) for s in real)
            parts = {s: math.exp(float(scores[n, t, s]) - high) for s in real}
            for s, v in parts.items():
                weights[n, t, s] = v / sum(parts.values())
    return weights


def _attend_by_weights(scores, mask):
    e = (scores - scores.amax(-1, keepdim=True)).exp() * mask.unsqueeze(1)
    return e / e.sum(-1, keepdim=True)


def _attend_one_text_each(scores, mask):
    weights = torch.zeros_like(scores)
    for row, real, out in zip(scores, mask, weights, strict=True):
        out[:, real] = row[:, real].softmax(1)
    return weights


def _gradients(G, A, B, alpha):
    scale = alpha / A.shape[0]
    return scale * B.T @ G, scale * G @ A.T


def _gradients_by_autograd(G, A, B, alpha):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    return torch.autograd.grad(((alpha / len(A) * B @ A) * G).sum(), (A, B))


def _gradients_by_einsum(G, A, B, alpha):
    s = alpha / B.shape[1]
    return [s * torch.einsum("pr,pq->rq", B, G), s * torch.einsum("pq,rq->pr", G, A)]


def _gradients_by_loop(G, A, B, alpha):
    dA, dB = torch.zeros_like(A), torch.zeros_like(B)
    for p in range(G.shape[0]):
        for q in range(G.shape[1]):
            for k in range(A.shape[0]):
                dA[k, q] += alpha / A.shape[0] * B[p, k] * G[p, q]
                dB[p, k] += alpha / A.shape[0] * G[p, q] * A[k, q]
    return dA, dB


def _within(right, y, subjects):
    total = 0.0
    for name in set(subjects):
        mine = torch.tensor([s == name for s in subjects])
        both = [right[mine & (y == k)].double().mean() for k in (0, 1)]
        total += sum(both) / 2 * mine.sum()
    return total / len(right)


def _within_by_weights(right, y, subjects):
    """Each text weighs half the texts of its subject, over those of its subject and class"""
    names, classes = list(subjects), y.tolist()
    pairs = list(zip(names, classes, strict=True))
    weights = torch.tensor([names.count(s) / (2 * pairs.count((s, k))) for s, k in pairs])
    return (weights * right).sum() / weights.sum()


def _within_by_dict(right, y, subjects):
    cells = {}
    for r, k, s in zip(right.tolist(), y.tolist(), subjects, strict=True):
        cells.setdefault(s, ([], []))[k].append(r)
    share = {s: sum(sum(c) / len(c) for c in two) / 2 for s, two in cells.items()}
    return sum(share[s] for s in subjects) / len(subjects)


def _mean_of_subjects(right, y, subjects):
    shares = [_within(*_of(name, right, y, subjects)) for name in dict.fromkeys(subjects)]
    return sum(shares) / len(shares)


def _of_one_feeling(right, y, subjects, k):
    chosen = {s: right[[a == s and int(b) == k for a, b in zip(subjects, y, strict=True)]] for s in set(subjects)}
    return sum(chosen[s].double().mean() for s in subjects) / len(subjects)


def _of(name, right, y, subjects):
    mine = torch.tensor([s == name for s in subjects])
    return right[mine], y[mine], [name] * int(mine.sum())


RIGHT = {
    "10.attend": [
        _attend,
        _attend_by_loop,
        _attend_by_weights,
        _attend_one_text_each,
        lambda scores, mask: (scores + (1 - mask.to(scores.dtype))[:, None] * -1e9).softmax(dim=2),
        lambda scores, mask: torch.where(mask[:, None], scores, -torch.inf).softmax(-1) * mask[..., None],
    ],
    "10.lora_gradients": [
        _gradients,
        _gradients_by_autograd,
        _gradients_by_einsum,
        _gradients_by_loop,
        lambda G, A, B, alpha: ((G.T @ B).T * (alpha / len(A)), (A @ G.T).T * (alpha / len(A))),
    ],
    "10.within": [
        _within,
        _within_by_weights,
        _within_by_dict,
        lambda right, y, subjects: _within(right.float(), y, subjects).item(),
        lambda right, y, subjects: sum(_within(*_of(s, right, y, subjects)) for s in subjects) / len(subjects),
    ],
}

WRONG = {
    "10.attend": [
        (lambda s, m: s.softmax(-1), "mask is not used"),
        (lambda s, m: s.softmax(-1) * m[:, None], "too late"),
        (lambda s, m: (s * m[:, None]).softmax(-1), "exp(0) = 1"),
        (lambda s, m: s.masked_fill(~m[:, None], -torch.inf).softmax(1), "wrong axis"),
        (lambda s, m: s.masked_fill(~m[..., None], -torch.inf).softmax(-1), "who looks"),
        (lambda s, m: s.masked_fill(m[:, None], -torch.inf).softmax(-1), "turned round"),
        (lambda s, m: s.masked_fill(~m[:, None], torch.nan).softmax(-1), "NaN"),
        (lambda s, m: (s + m[:, None]).softmax(-1), "adding 1"),
        (lambda s, m: (s - (~m[:, None]).double()).softmax(-1), "far too little"),
        (lambda s, m: s.masked_fill(~m[:, None], -torch.inf).sigmoid(), "sigmoid"),
        (lambda s, m: s.exp() * m[:, None], "sum of the row"),
        (lambda s, m: s.exp() * m[:, None] / (s.exp() * m[:, None]).sum(-1, keepdim=True), "largest of the row"),
        (lambda s, m: s.masked_fill(~m[:, None], -torch.inf).log_softmax(-1), "logarithms"),
        (lambda s, m: (m / m.sum(1, keepdim=True))[:, None].expand_as(s), "all real tokens alike"),
        (lambda s, m: _attend(s, m).sum(1), "shape"),
    ],
    "10.lora_gradients": [
        (lambda G, A, B, a: (B.T @ G, G @ A.T), "α / r is missing"),
        (lambda G, A, B, a: (a * B.T @ G, a * G @ A.T), "divide by the rank"),
        (lambda G, A, B, a: (B.T @ G / len(A), G @ A.T / len(A)), "α is missing"),
        (lambda G, A, B, a: _gradients(G, A, B, a)[::-1], "first dL/dA"),
        (lambda G, A, B, a: tuple(-v for v in _gradients(G, A, B, a)), "sign"),
        (lambda G, A, B, a: tuple(v.T for v in _gradients(G, A, B, a)), "transpose"),
        (lambda G, A, B, a: (B @ G, G @ A), "shapes do not fit"),
        (lambda G, A, B, a: tuple(a / len(A) * v for v in _gradients(G, A, B, a)), "once in W'"),
        (lambda G, A, B, a: (len(A) / a * B.T @ G, len(A) / a * G @ A.T), "on its head"),
        (lambda G, A, B, a: _gradients(G, A, B, a)[0], "two things"),
        (lambda G, A, B, a: (torch.zeros_like(A), _gradients(G, A, B, a)[1]), "dL/dA"),
    ],
    "10.within": [
        (lambda right, y, subjects: right.double().mean(), "plain accuracy"),
        (_mean_of_subjects, "number of texts"),
        (lambda right, y, s: (right[y == 0].double().mean() + right[y == 1].double().mean()) / 2, "over all texts"),
        (lambda right, y, s: _of_one_feeling(right, y, s, 1), "positive texts alone"),
        (lambda right, y, s: _of_one_feeling(right, y, s, 0), "negative texts alone"),
        (lambda right, y, s: 100 * _within(right, y, s), "percent"),
        (lambda right, y, s: 1 - _within(right, y, s), "errors"),
        (lambda right, y, s: _within(right, y, s) * len(right), "divide by the number"),
        (lambda right, y, subjects: sum(_of(s, right, y, subjects)[0].double().mean() for s in set(subjects))
         / len(set(subjects)), "must count alike"),
        (lambda right, y, s: right.double(), "shape"),
    ],
}  # fmt: skip
