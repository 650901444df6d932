"""Checkers of notebook NN."""

import torch

from sftlib.checks import checker, expect


@checker("NN.mean_loss")
def _mean_loss(answer):
    """means (B,), counts (B,) -> the mean over examples"""
    for means, counts in (((0.7, 0.5, 2.0), (11, 11, 3)), ((0.3, 5.0), (13, 2)), ((1.7,), (7,))):
        means, counts = torch.tensor(means), torch.tensor(counts)
        one_by_one = [m for m, n in zip(means.tolist(), counts.tolist(), strict=True) for _ in range(n)]
        right, of_means = sum(one_by_one) / len(one_by_one), means.mean().item()
        known = [] if len(means) == 1 else [
            (of_means, "this averages the batch means; a small batch then counts as much as a large one"),
            (sum(one_by_one), "this is the sum; divide by how many examples there are"),
            (sum(one_by_one) / len(means), "this divides by the batches; divide by the examples"),
        ]  # fmt: skip
        expect(f"batches of {counts.tolist()} examples", answer(means, counts), right, known=known)
