"""More answers to the exercises of notebook 04, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _backward(parameters, loss, lr, *, clear=True, update=lambda p, g, lr: p.data.sub_(lr * g)):
    if clear:
        for p in parameters:
            p.grad = None
    loss.backward()
    for p in parameters:
        update(p, p.grad, lr)


def _step(**slip):
    return lambda parameters, loss, lr: _backward(parameters, loss, lr, **slip)


def _sgd(parameters, loss, lr):
    optimizer = torch.optim.SGD(parameters, lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _adam(parameters, loss, lr):
    optimizer = torch.optim.Adam(parameters, lr=lr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _fused(parameters, loss, lr):
    with torch.no_grad():
        torch._foreach_add_(parameters, torch.autograd.grad(loss, parameters), alpha=-lr)


def _in_no_grad(parameters, loss, lr):
    for p in parameters:
        if p.grad is not None:
            p.grad.zero_()
    loss.backward()
    with torch.no_grad():
        for p in parameters:
            p -= lr * p.grad


def _copied(parameters, loss, lr):
    gradients = torch.autograd.grad(loss, parameters)
    for p, g in zip(parameters, gradients, strict=False):
        p.data.copy_(p.detach() - lr * g)


def _replaced(parameters, loss, lr):
    gradients = torch.autograd.grad(loss, parameters)
    for i, g in enumerate(gradients):
        parameters[i] = (parameters[i] - lr * g).detach().requires_grad_()


def _rebound(parameters, loss, lr):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=False):
        p = p - lr * g  # noqa: PLW2901


def _watched(parameters, loss, lr):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=False):
        p -= lr * g  # noqa: PLW2901


def _one_by_one(parameters, loss, lr):
    for p in parameters:
        (g,) = torch.autograd.grad(loss, p, retain_graph=True)
        with torch.no_grad():
            p -= lr * g  # noqa: PLW2901


def _first_only(parameters, loss, lr):
    g = torch.autograd.grad(loss, parameters)[0]
    with torch.no_grad():
        parameters[0] -= lr * g


def _no_more_gradients(parameters, loss, lr):
    _backward(parameters, loss, lr)
    for p in parameters:
        p.requires_grad_(False)


def _clipped(parameters, loss, lr):
    for p in parameters:
        p.grad = None
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    for p in parameters:
        p.data -= lr * p.grad


VELOCITY = {}


def _with_memory(parameters, loss, lr):
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=False):
        VELOCITY[id(p)] = 0.9 * VELOCITY.get(id(p), 0) + g
        p.data -= lr * VELOCITY[id(p)]


LEDGER = {
    "joint, f": "both", "joint, g": "L_g", "stop-gradient, f": "L_f", "stop-gradient, g": "L_g",
    "f frozen, f": "none", "f frozen, g": "L_g", "joint, learned prototypes": "L_f",
}  # fmt: skip


def _power(H, steps=20000):
    v = torch.randn(len(H), dtype=torch.float64)
    for _ in range(steps):
        v = H.double() @ v
        v = v / v.norm()
    return 2 / (v @ H.double() @ v)


def _bisect(H):
    """Is 2/α I − H still positive definite?"""
    low, high = 1e-12, 1e12
    for _ in range(200):
        mid = math.sqrt(low * high)
        matrix = 2 / mid * torch.eye(len(H), dtype=torch.float64) - H.double()
        low, high = (low, mid) if torch.linalg.cholesky_ex(matrix).info else (mid, high)
    return low


def _layers(x, y, A, a, B, b, *, use=lambda grads: grads, loss=F.cross_entropy):
    f, g = torch.nn.Linear(A.shape[1], A.shape[0]).double(), torch.nn.Linear(B.shape[1], B.shape[0]).double()
    with torch.no_grad():
        for p, value in zip([*f.parameters(), *g.parameters()], (A, a, B, b), strict=True):
            p.copy_(value)
    loss(g(torch.relu(f(x))), y).backward()
    return use([f.weight.grad, f.bias.grad, g.weight.grad, g.bias.grad])


def _taught(x, y, A, a, B, b, *, E_of=lambda p, Y, N: (p - Y) / N, mask=lambda h: (h > 0).double(),
            back=lambda E, B: E @ B, a_of=lambda d: d.sum(0), b_of=lambda E: E.sum(0), A_of=lambda d, x: d.T @ x,
            B_of=lambda E, z: E.T @ z):  # fmt: skip
    h = x @ A.T + a
    z = h * (h > 0)
    p = torch.softmax(z @ B.T + b, dim=-1)
    E = E_of(p, torch.eye(len(b), dtype=p.dtype)[y], len(y))
    d = back(E, B) * mask(h)
    return A_of(d, x), a_of(d), B_of(E, z), b_of(E)


def _with(**slip):
    return lambda *inputs: _taught(*inputs, **slip)


def _by_parts(*inputs):
    return tuple(part.detach().numpy() for part in _layers(*inputs))


def _vjp(x, y, A, a, B, b):
    out, back = torch.func.vjp(lambda A, a, B, b: F.cross_entropy(F.relu(x @ A.T + a) @ B.T + b, y), A, a, B, b)
    return back(torch.ones_like(out))


RIGHT = {
    "04.backward": [_layers, _with(), _by_parts, _vjp, lambda *i: list(_layers(*i))],
    "04.step": [_step(), _sgd, _fused, _in_no_grad, _copied,
                _step(update=lambda p, g, lr: setattr(p, "data", p.data - lr * g))],
    "04.ledger": [
        LEDGER, dict(reversed(LEDGER.items())), {k: f" {v.upper()} " for k, v in LEDGER.items()},
        {k: v.lower() for k, v in LEDGER.items()}, {k: v.title() for k, v in LEDGER.items()},
    ],
    "04.largest_rate": [
        lambda H: 2 / torch.linalg.eigvalsh(H).max(), lambda H: 2 / torch.linalg.eigh(H)[0][-1].item(),
        lambda H: 2 / torch.linalg.eigvals(H).real.max(), lambda H: 2 / torch.linalg.matrix_norm(H, ord=2),
        lambda H: 2 / np.linalg.eigvalsh(H.numpy())[-1], _bisect, _power,
        lambda H: min(2 / float(v) for v in torch.linalg.eigvalsh(H)), lambda H: 2 / torch.linalg.svdvals(H)[0],
    ],
}  # fmt: skip


SLIPS = {
    "04.backward": [
        (_with(E_of=lambda p, Y, N: p - Y), "a sum"),
        (_with(E_of=lambda p, Y, N: (Y - p) / N), "downhill"),
        (_with(E_of=lambda p, Y, N: p / N), "no label"),
        (_with(E_of=lambda p, Y, N: (p - Y) ** 2 / N), "the squared error"),
        (_with(E_of=lambda p, Y, N: p * (1 - p) * (p - Y) / N), "as for a squared loss"),
        (_with(mask=lambda h: torch.ones_like(h)), "no mask"),
        (_with(mask=lambda h: (h < 0).double()), "the mask turned round"),
        (_with(mask=lambda h: 1 - h.tanh() ** 2), "the mask of tanh"),
        (_with(mask=lambda h: h.clamp(min=0)), "z for its derivative"),
        (_with(a_of=lambda d: d.mean(0)), "a mean over rows for a"),
        (_with(b_of=lambda E: E.mean(0)), "a mean over rows for b"),
        (_with(b_of=lambda E: E.sum(1)), "summed over the classes"),
        (_with(A_of=lambda d, x: x.T @ d), "A turned"),
        (_with(B_of=lambda E, z: z.T @ E), "B turned"),
        (_with(A_of=lambda d, x: d.T @ x / len(x)), "A divided twice"),
        (_with(a_of=lambda d: d), "one a row"),
        (lambda *i: _layers(*i, loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")), "summed by torch"),
        (lambda *i: _layers(*i, use=lambda g: g[2:] + g[:2]), "g before f"),
        (lambda *i: _layers(*i, use=lambda g: g[:2]), "f alone"),
        (lambda *i: _layers(*i, use=lambda g: None), "no return"),
        (lambda x, y, A, a, B, b: _taught(x, y, A, torch.zeros_like(a), B, b), "without a"),
        (lambda x, y, A, a, B, b: _taught(x, y, A, a, B, torch.zeros_like(b)), "without b"),
    ],
    "04.step": [
        (_step(clear=False), "gradients add up"),
        (_step(update=lambda p, g, lr: p.data.add_(lr * g)), "uphill"),
        (_step(update=lambda p, g, lr: p.data.sub_(g)), "no rate"),
        (_step(update=lambda p, g, lr: p.data.sub_(lr * g.sign())), "signs"),
        (_step(update=lambda p, g, lr: p.data.sub_(lr * g / g.norm())), "length 1"),
        (_step(update=lambda p, g, lr: p.data.sub_(lr * (g + 0.1 * p.data))), "decay"),
        (_step(update=lambda p, g, lr: p.data.sub_(lr**2 * g)), "rate squared"),
        (_step(update=lambda p, g, lr: p.data.sub_(lr * g.mean())), "mean of the gradient"),
        (_step(update=lambda p, g, lr: p.data.copy_(-lr * g)), "the step instead of the sum"),
        (_step(update=lambda p, g, lr: p.data.mul_(1 - lr * g)), "a factor"),
        (_replaced, "list changed"),
        (_rebound, "new tensors"),
        (_watched, "watched"),
        (_first_only, "the first only"),
        (_one_by_one, "gradients after the first has moved"),
        (_no_more_gradients, "gradients off"),
        (_clipped, "clipped"),
        (_with_memory, "momentum"),
        (_adam, "Adam"),
        (lambda parameters, loss, lr: loss.backward(), "no update"),
    ],
    "04.ledger": [
        (LEDGER | {"joint, f": "L_g"}, "f hears L_g only"), (LEDGER | {"joint, f": "L_f"}, "f hears L_f only"),
        (LEDGER | {"joint, g": "both"}, "g hears L_f"), (LEDGER | {"joint, g": "L_f"}, "g hears L_f only"),
        (LEDGER | {"stop-gradient, f": "both"}, "detach does nothing"),
        (LEDGER | {"stop-gradient, f": "none"}, "detach freezes f"),
        (LEDGER | {"stop-gradient, f": "L_g"}, "exchanged"),
        (LEDGER | {"stop-gradient, g": "none"}, "detach freezes g"),
        (LEDGER | {"f frozen, f": "L_f"}, "frozen f hears L_f"), (LEDGER | {"f frozen, f": "both"}, "frozen f moves"),
        (LEDGER | {"f frozen, g": "none"}, "all frozen"), (LEDGER | {"f frozen, g": "both"}, "frozen g hears both"),
        (LEDGER | {"joint, learned prototypes": "both"}, "prototypes hear L_g"),
        (LEDGER | {"joint, learned prototypes": "none"}, "prototypes hear nothing"),
        (LEDGER | {"joint, learned prototypes": "L_g"}, "prototypes hear L_g only"),
        ({k: v for k, v in LEDGER.items() if k != "f frozen, g"}, "one missing"),
        (dict.fromkeys(LEDGER, "both"), "both everywhere"), (LEDGER | {"joint, f": "f"}, "no such word"),
        (LEDGER | {"joint, f": {"L_f", "L_g"}}, "a set"), (list(LEDGER.values()), "a list"),
    ],
    "04.largest_rate": [
        (lambda H: 2 / torch.linalg.eigvalsh(H).min(), "smallest"),
        (lambda H: 1 / torch.linalg.eigvalsh(H).max(), "1 over"),
        (lambda H: torch.linalg.eigvalsh(H).max() / 2, "turned round"),
        (lambda H: 2 / torch.linalg.eigvals(H).real[0], "first of the unsorted"),
        (lambda H: 2 / torch.linalg.eigvals(H).real[-1], "last of the unsorted"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).mean(), "mean"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).sum(), "trace"),
        (lambda H: 2 / H.norm(), "Frobenius norm"),
        (lambda H: 2 / H.diagonal().max(), "largest of the diagonal"),
        (lambda H: 2 / H[0, 0], "first of the diagonal"),
        (lambda H: 2 / H.abs().max(), "largest entry"),
        (lambda H: 2 / H.abs().sum(1).max(), "rows (Gershgorin)"),
        (lambda H: 2 / (torch.linalg.eigvalsh(H).max() + torch.linalg.eigvalsh(H).min()), "fastest rate"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).max().sqrt(), "root"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).max() ** 2, "square"),
        (lambda H: 2 / torch.linalg.det(H), "determinant"),
        (lambda H: 2 / torch.linalg.eigvalsh(H), "one for each"),
        (lambda H: 4 / torch.linalg.eigvalsh(H).max(), "without the half"),
        (lambda H: 2 / torch.linalg.eigvalsh(H).median(), "median"),
        (lambda H: 2 / torch.linalg.eigvalsh(H)[1 % len(H)], "the second"),
        (lambda H: _power(H, steps=1), "power iteration stopped"),
    ],
}  # fmt: skip
