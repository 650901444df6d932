"""Right and wrong answers to the exercises of notebook 00. WRONG: (answer, words that the checker must say)."""

import numpy as np
import torch


def _loop(logits, y):
    hits = 0
    for row, label in zip(logits, y, strict=True):
        hits += int(row.argmax()) == int(label)
    return hits / len(y)


def _batch_of_two(logits, y):
    return torch.stack(
        [(a.argmax(1) == b).float().mean() for a, b in zip(logits.split(4), y.split(4), strict=True)]
    ).mean()


RIGHT = {
    "00.accuracy": [
        lambda logits, y: (logits.argmax(1) == y).float().mean().item(),
        lambda logits, y: (logits.argmax(dim=-1) == y).double().mean(),
        lambda logits, y: torch.eq(logits.softmax(1).max(1).indices, y).sum() / len(y),
        lambda logits, y: float(np.mean(logits.numpy().argmax(1) == y.numpy())),
        lambda logits, y: logits.topk(1).indices.squeeze(1).eq(y).sum().item() / y.numel(),
        lambda logits, y: logits.gather(1, y[:, None])[:, 0].eq(logits.amax(1)).float().mean(),
        _loop,
    ],
}
WRONG = {
    "00.accuracy": [
        (lambda logits, y: (logits == y).float().mean(), "gives one class for each"),
        (lambda logits, y: (logits.max(1).values == y).float().mean().item(), "compare the index of the largest logit"),
        (lambda logits, y: (logits.argmax(1) == y).sum() / logits.shape[1], "divides by the number of classes"),
        (lambda logits, y: (logits.argmax(1) == y).sum() / logits.numel(), "divides by all logits"),
        (lambda logits, y: (logits.argmax(1) == y).sum(), "divide by how many pictures"),
        (lambda logits, y: 100 * (logits.argmax(1) == y).float().mean(), "percent"),
        (lambda logits, y: (logits.argmax(1) != y).float().mean(), "share of errors"),
        (lambda logits, y: (logits.argmin(1) == y).float().mean(), "smallest"),
        (lambda logits, y: (logits.argmax(0) == y).float().mean(), "dim=0 looks along the pictures"),
        (lambda logits, y: (logits.argmax(1)[:, None] == y).float().mean(), "expected 0.6"),
        (lambda logits, y: (logits.argmax(1) == y).float(), "shape"),
        (lambda logits, y: ((logits.softmax(1).amax(1) > 0.5) & (logits.argmax(1) == y)).float().mean(), "one half"),
        (lambda logits, y: (logits.argmax(1) == y).float().mean().round(), "expected"),
        (_batch_of_two, "expected"),
        (lambda logits, y: "good", "str"),
        (lambda logits, y: 11 / 17, "of 7 pictures"),
    ],
}
