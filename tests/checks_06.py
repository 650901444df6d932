"""Right and wrong answers to the exercises of notebook 06. WRONG: (answer, words that the checker must say)."""

import torch
import torch.nn.functional as F


def _accumulate(model, x, y, size):
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        (F.cross_entropy(model(x_part), y_part) * len(y_part) / len(y)).backward()


def _with_sums(model, x, y, size):
    for p in model.parameters():
        p.grad = None
    for i in range(0, len(y), size):
        (F.cross_entropy(model(x[i : i + size]), y[i : i + size], reduction="sum") / len(y)).backward()


def _by_autograd(model, x, y, size):
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for rows in torch.arange(len(y)).split(size):
        loss = F.cross_entropy(model(x[rows]), y[rows], reduction="sum")
        for t, g in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            t += g / len(y)
    for p, t in zip(parameters, total, strict=True):
        p.grad = t


def _steps_as_well(model, x, y, size):
    _accumulate(model, x, y, size)
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad


def _clipped(model, x, y, size):
    _accumulate(model, x, y, size)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def _left_in_eval(model, x, y, size):
    _accumulate(model.eval(), x, y, size)


def _no_weights(model, x, y, size):
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        F.cross_entropy(model(x_part), y_part).backward()


def _equal_weights(model, x, y, size):
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        (F.cross_entropy(model(x_part), y_part) / len(x.split(size))).backward()


def _full_weights(model, x, y, size):
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        (F.cross_entropy(model(x_part), y_part) * size / len(y)).backward()


def _last_lost(model, x, y, size):
    model.zero_grad()
    for i in range(len(y) // size):
        rows = slice(i * size, (i + 1) * size)
        (F.cross_entropy(model(x[rows]), y[rows]) / (len(y) // size)).backward()


def _clears_each(model, x, y, size):
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        model.zero_grad()
        (F.cross_entropy(model(x_part), y_part) * len(y_part) / len(y)).backward()


def _keeps_old(model, x, y, size):
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        (F.cross_entropy(model(x_part), y_part) * len(y_part) / len(y)).backward()


def _at_once(model, x, y, size):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def _summed(model, x, y, size):
    model.zero_grad()
    for x_part, y_part in zip(x.split(size), y.split(size), strict=True):
        F.cross_entropy(model(x_part), y_part, reduction="sum").backward()


RIGHT = {
    "06.accumulate": [_accumulate, _with_sums, _by_autograd],
    "06.waits": [
        {"E", "F", "H"},
        ["h", "f", "e"],
        "EFH",
        "e, f, h",
        lambda: {"E ", "F", "H"},
        dict.fromkeys("FEH").keys(),
    ],
}
WRONG = {
    "06.accumulate": [
        (_steps_as_well, "the parameters moved"),
        (_left_in_eval, "left in eval mode"),
        (_clipped, "gradient of 6 rows"),
        (_no_weights, "each part counts fully"),
        (_equal_weights, "every part the same weight"),
        (_clears_each, "only the last part is left"),
        (_keeps_old, "of the step before"),
        (_at_once, "11 rows at once"),
        (_summed, "gradient of the sum"),
        (lambda model, x, y, size: model.zero_grad(), "have no gradient"),
        (_full_weights, "the weight of a full one"),
        (_last_lost, "a smaller one, is lost"),
    ],
    "06.waits": [
        ({"E", "F"}, "1 of the lines that wait are missing"),
        ({"A", "E", "F", "H"}, "['A']: a copy from pinned memory is only queued"),
        ({"C", "G"}, "2 of your lines do not wait, the first is ['C']"),
        ({"Z"}, "the lines are A to H"),
        (3, "expected a set of letters"),
    ],
}
