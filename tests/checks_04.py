"""Right and wrong answers to the exercises of notebook 04. WRONG: (answer, words that the checker must say)."""

import numpy as np
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


def _matrices(x, y, A, a, B, b):
    z = (x @ A.T + a).clamp(min=0)
    E = ((z @ B.T + b).softmax(dim=1) - F.one_hot(y, len(b))) / len(y)
    delta = (E @ B) * (z > 0)
    return delta.T @ x, delta.sum(0), E.T @ z, E.sum(0)


def _letters(x, y, A, a, B, b):
    before = torch.einsum("ic,dc->id", x, A) + a
    z = F.relu(before)
    E = torch.softmax(torch.einsum("id,kd->ik", z, B) + b, 1)
    E[torch.arange(len(y)), y] -= 1
    E = E / len(y)
    delta = torch.einsum("ik,kd->id", E, B) * (before > 0).double()
    return [torch.einsum("id,ic->dc", delta, x), delta.sum(dim=0), torch.einsum("ik,id->kd", E, z), E.sum(dim=0)]


def _row_by_row(x, y, A, a, B, b):
    out = [torch.zeros_like(p) for p in (A, a, B, b)]
    for row, label in zip(x, y, strict=True):
        z = torch.relu(A @ row + a)
        e = torch.softmax(B @ z + b, 0)
        e[label] -= 1
        d = (B.T @ e) * (z > 0)
        for total, part in zip(out, (d.outer(row), d, e.outer(z), e), strict=True):
            total += part / len(y)
    return tuple(out)


def _functional(x, y, A, a, B, b):
    def loss(A, a, B, b):
        return F.cross_entropy(F.linear(F.relu(F.linear(x, A, a)), B, b), y)

    return torch.func.grad(loss, argnums=(0, 1, 2, 3))(A, a, B, b)


def _in_numpy(x, y, A, a, B, b):
    x, y, A, a, B, b = (t.numpy() for t in (x, y, A, a, B, b))
    z = np.maximum(0, x @ A.T + a)
    logits = z @ B.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    E = (p / p.sum(1, keepdims=True) - np.eye(len(b))[y]) / len(y)
    delta = (E @ B) * (z > 0)
    return delta.T @ x, delta.sum(0), E.T @ z, E.sum(0)


def _slip(*, over=len, mask=lambda z: z > 0, label=1.0, sign=1.0, rows="sum", first=lambda x, z: x, order=(0, 1, 2, 3),
          offset=1.0, softmax=lambda o: o.softmax(1), relu=lambda h: h.clamp(min=0), turn=False):  # fmt: skip
    """The gradients with one slip"""

    def backward(x, y, A, a, B, b):
        z = relu(x @ A.T + offset * a)
        E = sign * (softmax(z @ B.T + offset * b) - label * F.one_hot(y, len(b))) / over(y)
        delta = (E @ B) * mask(z)
        found = [delta.T @ first(x, z), getattr(delta, rows)(0), E.T @ z, getattr(E, rows)(0)]
        found = [g.T for g in found] if turn else found
        return tuple(found[i] for i in order)

    return backward


RIGHT = {
    "04.backward": [_matrices, _letters, _row_by_row, _functional, _in_numpy],
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
}


WRONG = {
    "04.backward": [
        (_slip(over=lambda y: 1), "sum over the rows; the loss is their mean"),
        (_slip(over=lambda y: len(y) ** 2), "divides by N twice"),
        (_slip(mask=torch.ones_like), "is missing: 0 wherever"),
        (_slip(mask=lambda z: 1 - z**2), "derivative of tanh"),
        (_slip(mask=lambda z: z), "not z itself"),
        (_slip(label=0.0), "Y is missing"),
        (_slip(sign=-1.0), "uphill"),
        (_slip(rows="mean"), "E holds the 1/N already"),
        (_slip(offset=0.0), "offsets a and b are missing"),
        (_slip(order=(0, 2, 1, 3)), "shape"),
        (_slip(order=(0, 1)), "four gradients"),
        (_slip(turn=True), "shape"),
        (_slip(softmax=lambda o: o.exp() / o.exp().sum(1, keepdim=True)), "got nan"),
    ],
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
        (lambda H: 2 / torch.linalg.eigvalsh(H).mean(), "mean curvature sets no limit"),
        (lambda H: torch.linalg.eigvalsh(H).max() / 2, "upside down"),
        (lambda H: 2 / H.diagonal().max(), "only when H is diagonal"),
        (lambda H: 2 / H.abs().max(), "largest"),
        (lambda H: torch.linalg.eigvalsh(H).max(), "not a rate"),
        (lambda H: 0.3, "expected 0.25"),
    ],
}
