"""More answers to the exercises of notebook NN, written from their text alone. SLIPS: (answer, the slip in words)."""

import numpy as np
import torch

RIGHT = {
    "NN.mean_loss": [
        lambda means, counts: torch.dot(means, counts.float()) / counts.sum(),
        lambda means, counts: sum(m * n for m, n in zip(means.tolist(), counts.tolist(), strict=True)) / sum(counts),
        lambda means, counts: means.repeat_interleave(counts).mean(),
        lambda means, counts: (means * (counts / counts.sum())).sum().item(),
        lambda means, counts: float(np.dot(means.numpy(), counts.numpy()) / counts.numpy().sum()),
    ],
}
SLIPS = {
    "NN.mean_loss": [
        (lambda means, counts: means.sum(), "a sum of means"),
        (lambda means, counts: means.median(), "the median"),
        (lambda means, counts: means[0], "the first batch"),
        (lambda means, counts: means[-1], "the last batch"),
        (lambda means, counts: (means / counts).sum() / (1 / counts).sum(), "weighed by one over the count"),
        (lambda means, counts: (means * counts).sum() / (counts.sum() - 1), "N - 1"),
        (lambda means, counts: (means * counts)[:-1].sum() / counts[:-1].sum(), "without the last batch"),
        (lambda means, counts: (means * counts**2).sum() / (counts**2).sum(), "weighed by the squares"),
        (
            lambda means, counts: (means * counts).sum() / counts.max() / len(counts),
            "all batches as large as the largest",
        ),
        (lambda means, counts: means.max(), "the largest"),
        (lambda means, counts: counts.float().mean(), "the mean count"),
        (lambda means, counts: -((means * counts).sum() / counts.sum()), "the sign"),
        (lambda means, counts: round(((means * counts).sum() / counts.sum()).item(), 1), "rounded"),
    ],
}
