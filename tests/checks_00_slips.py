"""More answers to the exercise of notebook 00, written from its text alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch

RIGHT = {
    "00.accuracy": [
        lambda logits, y: (logits.argmax(1) == y).double().mean().item(),
        lambda logits, y: (logits.max(dim=1).indices == y).sum() / len(y),
        lambda logits, y: float(np.mean(logits.numpy().argmax(axis=1) == y.numpy())),
        lambda logits, y: sum(int(row.argmax()) == int(k) for row, k in zip(logits, y, strict=True)) / y.shape[0],
        lambda logits, y: 1 - (logits.softmax(1).topk(1).indices[:, 0] - y).ne(0).float().mean(),
        lambda logits, y: torch.eq(torch.argsort(logits, dim=-1, descending=True)[:, 0], y).float().mean(),
    ]
}

SLIPS = {
    "00.accuracy": [
        (lambda logits, y: (logits.argmax(1) == y).sum().item(), "a count"),
        (lambda logits, y: (logits.argmax(1) != y).double().mean().item(), "the errors"),
        (lambda logits, y: 100 * (logits.argmax(1) == y).double().mean().item(), "percent"),
        (lambda logits, y: (logits.argmin(1) == y).double().mean().item(), "the smallest"),
        (lambda logits, y: (logits.argmax(0) == y).double().mean().item(), "columns"),
        (lambda logits, y: (logits.abs().argmax(1) == y).double().mean().item(), "negative logits taken as large"),
        (lambda logits, y: ((logits.exp() / logits.exp().sum(1, keepdim=True)).argmax(1) == y).double().mean(),
         "exp overflows"),
        (lambda logits, y: (logits.half().argmax(1) == y).double().mean(), "rounded to 16 bits"),
        (lambda logits, y: (logits.argmax(1) + 1 == y).double().mean(), "classes from one"),
        (lambda logits, y: logits.softmax(1)[torch.arange(len(y)), y].mean().item(), "mean probability"),
        (lambda logits, y: (logits.softmax(1)[torch.arange(len(y)), y] > 0.5).double().mean().item(), "above a half"),
        (lambda logits, y: ((logits[:, 1] > logits[:, 0]).long() == y).double().mean(), "two classes only"),
        (lambda logits, y: (logits.argmax(1) == y).double().mean() if logits.shape[1] > 2 else 1.0, "two classes: 1"),
        (lambda logits, y: (logits.tanh().argmax(1) == y).double().mean(), "tanh saturates"),
        (lambda logits, y: (logits.argmax(1)[:-1] == y[:-1]).double().mean(), "without the last"),
        (lambda logits, y: (logits.argmax(1) == y).sum().item() / max(len(y) - 1, 1), "N - 1"),
        (lambda logits, y: (logits.argmax(1) == y).sum().item() / logits.shape[1], "divided by K"),
        (lambda logits, y: np.mean([(logits.argmax(1)[y == k] == k).double().mean().item() for k in y.unique()]),
         "balanced"),
        (lambda logits, y: (logits.topk(2, 1).indices == y[:, None]).any(1).double().mean(), "best of two"),
        (lambda logits, y: round((logits.argmax(1) == y).double().mean().item(), 1), "rounded"),
        (lambda logits, y: (logits.relu_().argmax(1) == y).double().mean(), "changes the logits"),
        (lambda logits, y: logits.argmax(1) == y, "not averaged"),
        (lambda logits, y: (logits.argmax() == y).double().mean(), "one class for all"),
        (lambda logits, y: (logits.argmax(1) == y).double().mean().round(), "0 or 1"),
    ]
}  # fmt: skip
