"""Right and wrong answers to the exercises of notebook 04. WRONG: (answer, words that the checker must say)."""

import torch
import torch.nn.functional as F


def _autograd(parameters, loss, lr):
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p.add_(g, alpha=-lr)


def _backward(parameters, loss, lr):
    for p in parameters:
        p.grad = None
    loss.backward()
    for p in parameters:
        p.data -= lr * p.grad


def _optimizer(parameters, loss, lr):
    optimizer = torch.optim.SGD(parameters, lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _clears_after(parameters, loss, lr):
    loss.backward()
    with torch.no_grad():
        for p in parameters:
            p -= lr * p.grad
            p.grad.zero_()


def _accumulates(parameters, loss, lr):
    loss.backward()
    with torch.no_grad():
        for p in parameters:
            p -= lr * p.grad


def _climbs(parameters, loss, lr):
    _autograd(parameters, loss, -lr)


def _ignores_rate(parameters, loss, lr):
    _autograd(parameters, loss, 1.0)


def _makes_new(parameters, loss, lr):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p = p - lr * g


def _with_graph(parameters, loss, lr):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p -= lr * g


def _one_only(parameters, loss, lr):
    _autograd(parameters[:1], loss, lr)


def _freezes(parameters, loss, lr):
    _autograd(parameters, loss, lr)
    for p in parameters:
        p.requires_grad_(False)


LEDGER = {
    "joint, f": "both",
    "joint, g": "L_g",
    "stop-gradient, f": "L_f",
    "stop-gradient, g": "L_g",
    "f frozen, f": "none",
    "f frozen, g": "L_g",
    "joint, learned prototypes": "L_f",
}


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
    "04.step": [_autograd, _backward, _optimizer, _clears_after],
    "04.ledger": [
        LEDGER,
        dict(reversed(LEDGER.items())),
        {k: f"{v.upper()} " for k, v in LEDGER.items()},
        LEDGER | {"a line of my own": "none"},
    ],
    "04.largest_rate": [
        lambda H: 2 / torch.linalg.eigvalsh(H).max(),
        lambda H: 2 / torch.linalg.matrix_norm(H, ord=2).item(),
        lambda H: 1.9999 / torch.linalg.eigvals(H).real.max(),
    ],
    "04.momentum": [_adds, _in_place, _numbers],
    "04.per_sample": [_outer, _einsum, _functional],
}
WRONG = {
    "04.step": [
        (lambda parameters, loss, lr: [p.data.sub_(lr * p.grad) for p in parameters], "fills it, and comes before"),
        (_accumulates, "old gradients were added"),
        (_climbs, "climbs"),
        (_ignores_rate, "leaves out the learning rate"),
        (_makes_new, "nothing moved"),
        (_with_graph, "raised RuntimeError"),
        (_one_only, "second parameter"),
        (_freezes, "requires no gradient"),
    ],
    "04.ledger": [
        (LEDGER | {"joint, f": "L_f"}, "1 of 7 lines are wrong, the first is 'joint, f': which losses"),
        (LEDGER | {"joint, g": "both", "f frozen, g": "both"}, "2 of 7 lines are wrong, the first is 'joint, g'"),
        (LEDGER | {"stop-gradient, f": "both"}, "a way back from the logits"),
        (LEDGER | {"f frozen, f": "L_f"}, "requires no gradient"),
        (LEDGER | {"joint, learned prototypes": "none"}, "prototypes are parameters"),
        (LEDGER | {"joint, g": "Lg"}, "expected one of 'none', 'L_f'"),
        (dict(list(LEDGER.items())[:3]), "missing: stop-gradient, g"),
        (list(LEDGER.values()), "expected the dict"),
    ],
    "04.largest_rate": [
        (lambda H: 1 / torch.linalg.eigvalsh(H).max(), "twice as much"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).min(), "flattest"),
        (lambda H: 2 / H.trace(), "sum of the curvatures"),
        (lambda H: 2 / H.diagonal().max(), "only when H is diagonal"),
        (lambda H: 2 / H.abs().max(), "largest"),
        (lambda H: torch.linalg.eigvalsh(H).max(), "not a rate"),
        (lambda H: 0.3, "expected 0.25"),
    ],
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
