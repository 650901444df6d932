"""More answers to the exercises of notebook 06, written from their texts alone. SLIPS: (answer, the slip in words)."""

import math

import torch
from torch.nn import functional as F


def _accumulate(model, x, y, size, *, clear=True, weight=lambda n, N, size: n / N, parts=None, reduction="mean"):
    if clear:
        for p in model.parameters():
            p.grad = None
    parts = parts or (lambda t, size: t.split(size))
    for a, b in zip(parts(x, size), parts(y, size), strict=False):
        (F.cross_entropy(model(a), b, reduction=reduction) * weight(len(b), len(y), size)).backward()


def _ac(**slip):
    return lambda model, x, y, size: _accumulate(model, x, y, size, **slip)


def _by_grad(model, x, y, size):
    params = list(model.parameters())
    total = [torch.zeros_like(p) for p in params]
    for i in range(0, len(x), size):
        loss = F.cross_entropy(model(x[i : i + size]), y[i : i + size], reduction="sum") / len(x)
        for t, g in zip(total, torch.autograd.grad(loss, params), strict=False):
            t += g
    for p, t in zip(params, total, strict=False):
        p.grad = t


def _one_loss(model, x, y, size):
    """All parts first, one backward"""
    model.zero_grad()
    logits = torch.cat([model(part) for part in x.split(size)])
    F.cross_entropy(logits, y).backward()


def _negative_logs(model, x, y, size):
    model.zero_grad(set_to_none=False)
    for i in range(math.ceil(len(x) / size)):
        rows = slice(i * size, (i + 1) * size)
        logs = model(x[rows]).log_softmax(1)
        (-logs[torch.arange(len(y[rows])), y[rows]].sum() / len(y)).backward()


def _cleared_inside(model, x, y, size):
    for a, b in zip(x.split(size), y.split(size), strict=False):
        model.zero_grad()
        (F.cross_entropy(model(a), b) * len(b) / len(y)).backward()


def _drop_last(model, x, y, size):
    model.zero_grad()
    full = len(x) // size * size
    for a, b in zip(x[:full].split(size), y[:full].split(size), strict=False):
        (F.cross_entropy(model(a), b) * len(b) / len(y)).backward()


def _whole(model, x, y, size):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def _steps(model, x, y, size):
    _accumulate(model, x, y, size)
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad


def _steps_inside(model, x, y, size):
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for a, b in zip(x.split(size), y.split(size), strict=False):
        (F.cross_entropy(model(a), b) * len(b) / len(y)).backward()
        optimizer.step()


def _returned(model, x, y, size):
    return torch.autograd.grad(F.cross_entropy(torch.cat([model(a) for a in x.split(size)]), y), model.parameters())


def _clipped(model, x, y, size):
    _accumulate(model, x, y, size)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)


def _shuffled_labels(model, x, y, size):
    model.zero_grad()
    for a, b in zip(x.split(size), y.flip(0).split(size), strict=False):
        (F.cross_entropy(model(a), b) * len(b) / len(y)).backward()


def _eval_left(model, x, y, size):
    model.eval()
    _accumulate(model, x, y, size)


def _doubled(model, x, y, size):
    _accumulate(model, x, y, 2 * size)


RIGHT = {
    "06.accumulate": [
        _ac(), _by_grad, _negative_logs, _ac(reduction="sum", weight=lambda n, N, size: 1 / N),
        _ac(parts=lambda t, size: t.chunk(math.ceil(len(t) / size))), _one_loss,
        _ac(parts=lambda t, size: [t[i : i + 1] for i in range(len(t))]),
    ],
    "06.waits": [{"E", "F", "H"}, {"h", "e", "f"}, ["E", "F", "H"], "EFH", ("F", " E ", "H"), "E, F, H",
                 frozenset("EFH")],
}  # fmt: skip
SLIPS = {
    "06.accumulate": [
        (_ac(clear=False), "old gradients kept"),
        (_ac(weight=lambda n, N, size: 1 / math.ceil(N / size)), "parts of equal weight"),
        (_ac(weight=lambda n, N, size: 1), "sum of means"),
        (_ac(weight=lambda n, N, size: size / N), "all parts full"),
        (_ac(weight=lambda n, N, size: n / size), "share of a part"),
        (_ac(weight=lambda n, N, size: 1 / (N // size or 1)), "full parts counted"),
        (_ac(reduction="sum"), "sum over rows"),
        (_ac(reduction="sum", weight=lambda n, N, size: 1 / size), "sum over size"),
        (_cleared_inside, "cleared inside"), (_drop_last, "the last part lost"), (_whole, "all at once"),
        (_doubled, "parts twice as large"), (_steps, "a step at the end"), (_steps_inside, "steps inside"),
        (_returned, "returned, not left"), (_clipped, "clipped"), (_shuffled_labels, "labels of other rows"),
        (_eval_left, "left in eval mode"),
        (lambda model, x, y, size: _accumulate(model, x[:size], y[:size], size), "the first part only"),
        (lambda model, x, y, size: _accumulate(model, x[size:], y[size:], size), "without the first part"),
    ],
    "06.waits": [
        ({"E", "F"}, "H forgotten"), ({"E", "H"}, "F forgotten"), ({"F", "H"}, "E forgotten"),
        ({"E", "F", "H", "A"}, "the copy"), ({"E", "F", "H", "B"}, "the loss"), ({"E", "F", "H", "C"}, "the sum"),
        ({"E", "F", "H", "D"}, "the list"), ({"E", "F", "H", "G"}, "clipping"), (set("ABCDEFGH"), "all"),
        (set(), "none"), ({"A", "B", "C", "D", "G"}, "the others"), ({"E"}, "E"), ({"C", "E", "F"}, "C for H"),
        ({"E", "F", "H", "X"}, "no such line"), ([5, 6, 8], "numbers"),
    ],
}  # fmt: skip
