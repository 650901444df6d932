"""More answers to the exercises of 04, going deeper, from their texts alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch
from torch.nn import functional as F


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
