"""More answers to the exercises of notebook 04, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import numpy as np
import torch
from torch.nn import functional as F


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


def _momentum(*, v_of=lambda v, g, lr, m: m * v + g, w_of=lambda w, v, old, g, lr, m: w - lr * v):
    def momentum_step(w, v, gradient, lr, momentum):
        new = v_of(v, gradient, lr, momentum)
        return w_of(w, new, v, gradient, lr, momentum), new

    return momentum_step


def _torch_momentum(w, v, gradient, lr, momentum):
    p = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.SGD([p], lr=lr, momentum=momentum)
    optimizer.state[p]["momentum_buffer"] = v.clone()
    p.grad = gradient.clone()
    optimizer.step()
    return p, optimizer.state[p]["momentum_buffer"]


def _per_sample(logits, z, y, *, p=lambda a: a.softmax(1), hot=lambda y, a: F.one_hot(y, a.shape[1]),
                error=lambda p, t: p - t, outer=lambda e, z: e[:, :, None] * z[:, None, :],
                scale=lambda n: 1):  # fmt: skip
    return outer(error(p(logits), hot(y, logits)), z) / scale(len(y))


def _ps(**slip):
    return lambda logits, z, y: _per_sample(logits, z, y, **slip)


def _row_by_row(logits, z, y):
    rows = []
    for a, b, label in zip(logits, z, y, strict=False):
        e = a.softmax(0)
        e = torch.stack([e[k] - (1 if k == label else 0) for k in range(len(e))])
        rows.append(torch.outer(e, b))
    return torch.stack(rows)


def _autograd_rows(logits, z, y):
    logits = logits.detach().clone().requires_grad_()
    error = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), logits)[0]
    return torch.einsum("nk,nd->nkd", error, z)


def _numpy_rows(logits, z, y):
    a = logits.double().numpy()
    e = np.exp(a - a.max(1, keepdims=True))
    e /= e.sum(1, keepdims=True)
    e[np.arange(len(y)), y.numpy()] -= 1
    return e[:, :, None] * z.double().numpy()[:, None]


def _exp(a):
    return a.exp() / a.exp().sum(1, keepdim=True)


RIGHT = {
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
    "04.momentum": [
        _momentum(), _torch_momentum,
        lambda w, v, g, lr, m: (w - lr * g - lr * m * v, g + m * v),
        lambda w, v, g, lr, m: [torch.sub(w, v.mul(m).add(g), alpha=lr), v.mul(m).add(g)],
        lambda w, v, g, lr, m: torch.stack([w - lr * (m * v + g), m * v + g]),
        lambda w, v, g, lr, m: tuple(a.numpy() for a in _momentum()(w, v, g, lr, m)),
    ],
    "04.per_sample": [
        _ps(), _row_by_row, _autograd_rows, _numpy_rows,
        _ps(outer=lambda e, z: e.unsqueeze(2) @ z.unsqueeze(1)),
        lambda logits, z, y: torch.einsum("nk,nd->nkd", logits.softmax(1) - torch.eye(logits.shape[1])[y], z),
        lambda logits, z, y: (logits.softmax(1).float() - F.one_hot(y, logits.shape[1]))[:, :, None] @ z[:, None],
        _ps(p=lambda a: a.log_softmax(1).exp(), hot=lambda y, a: torch.eye(a.shape[1], dtype=a.dtype)[y]),
    ],
}  # fmt: skip

SLIPS = {
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
    "04.momentum": [
        (_momentum(v_of=lambda v, g, lr, m: m * v + (1 - m) * g), "averages"),
        (_momentum(v_of=lambda v, g, lr, m: m * v + lr * g), "rate in v too"),
        (_momentum(v_of=lambda v, g, lr, m: m * v - lr * g, w_of=lambda w, v, old, g, lr, m: w + v), "older texts"),
        (_momentum(v_of=lambda v, g, lr, m: m * v + lr * g, w_of=lambda w, v, old, g, lr, m: w - v), "rate in v"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w - lr * old), "old v"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w - lr * g), "gradient only"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w + lr * v), "uphill"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w - lr * (g + m * v)), "Nesterov"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w - v), "no rate"),
        (_momentum(w_of=lambda w, v, old, g, lr, m: w - lr * m * v), "momentum twice"),
        (_momentum(v_of=lambda v, g, lr, m: v + g), "nothing forgotten"),
        (_momentum(v_of=lambda v, g, lr, m: v + m * g), "μ at the gradient"),
        (_momentum(v_of=lambda v, g, lr, m: m * (v + g)), "μ at both"),
        (_momentum(v_of=lambda v, g, lr, m: g), "no memory"),
        (_momentum(v_of=lambda v, g, lr, m: m * v - g), "sign of the gradient"),
        (_momentum(v_of=lambda v, g, lr, m: (1 - m) * v + g), "1 − μ at v"),
        (lambda *a: _momentum()(*a)[::-1], "v first"),
        (lambda *a: _momentum()(*a)[0], "w only"),
        (lambda w, v, g, lr, m: (w - lr * (m * v + g), v), "v returned as it was"),
    ],
    "04.per_sample": [
        (_ps(scale=lambda n: n), "divided by N"),
        (_ps(error=lambda p, t: t - p), "sign"),
        (_ps(error=lambda p, t: p), "no label"),
        (_ps(error=lambda p, t: (p - t) ** 2), "squares"),
        (_ps(error=lambda p, t: (p - t) * p * (1 - p)), "derivative of the softmax again"),
        (_ps(p=lambda a: a), "logits"),
        (_ps(p=lambda a: a.log_softmax(1)), "log probabilities"),
        (_ps(p=lambda a: a.sigmoid()), "sigmoid"),
        (_ps(p=lambda a: a.softmax(0)), "softmax over the pictures"),
        (_ps(p=_exp), "exp overflows"),
        (_ps(p=lambda a: (a.exp() + 1e-8) / (a.exp() + 1e-8).sum(1, keepdim=True)), "exp overflows, with an ε"),
        (_ps(p=lambda a: (a - a.max()).exp() / (a - a.max()).exp().sum(1, keepdim=True)), "largest of all rows"),
        (_ps(p=lambda a: a.clamp(-50, 50).softmax(1)), "logits clipped"),
        (_ps(outer=lambda e, z: z[:, :, None] * e[:, None, :]), "transposed"),
        (_ps(outer=lambda e, z: (e[:, :, None] * z[:, None, :]).sum(0)), "sum over the pictures"),
        (_ps(outer=lambda e, z: (e.T @ z).expand(len(e), -1, -1)), "same for all pictures"),
        (_ps(outer=lambda e, z: e[:, :, None] * z.mean(0)), "mean feature"),
        (_ps(outer=lambda e, z: e[:, :, None] * F.normalize(z)[:, None, :]), "z normalised"),
        (_ps(hot=lambda y, a: F.one_hot(y)), "number of classes from y"),
        (_ps(hot=lambda y, a: F.one_hot((y + 1) % a.shape[1], a.shape[1])), "labels shifted"),
        (lambda logits, z, y: _per_sample(logits.sub_(logits.max(1, keepdim=True).values), z, y), "logits changed"),
    ],
}  # fmt: skip
