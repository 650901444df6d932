"""What the frames of a CTC recogniser say, beyond the best path: beam search, and which frame says which unit."""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from sftlib.inputs import whole
from sftlib.metrics.error_rate import BLANK

NEVER = -np.inf


def beam_decode(log_p: Tensor, lengths: Tensor, *, width: int = 8) -> list[list[int]]:
    """log p (N, T, K), lengths (N,) -> for each the units whose paths together are the most probable

    Prefix beam search (Hannun et al. 2014, First-pass large vocabulary continuous speech recognition using
    bi-directional recurrent DNNs, arXiv 1408.2873, algorithm 1, without a language model): after each frame ``width``
    beginnings are kept, each with the probability of its paths that end in a blank and of those that do not. What
    fell out of the beam is gone, so a small width may miss the most probable units.
    """
    width = whole("width", width)
    return [_beam(frames[:n], width) for frames, n in zip(_doubles(log_p), lengths.tolist(), strict=True)]


def align(log_p: Tensor, units: list[int]) -> list[int]:
    """log p (T, K), units (U,) of one example -> its most probable path that reads so, a class for each of T frames

    Viterbi's search over blank, y₁, blank, …, y_U, blank (Graves et al. 2006, section 4.1, with the largest in place
    of the sum). ValueError where no path fits: T is less than U and the number of equal neighbours.
    """
    extended = [BLANK]
    for unit in units:
        extended += [int(unit), BLANK]
    needs = len(units) + sum(a == b for a, b in zip(units, units[1:], strict=False))
    if len(log_p) < max(needs, 1):
        raise ValueError(f"got {len(log_p)} frames for {len(units)} units; expected at least {max(needs, 1)}")
    emitted = _doubles(log_p)[:, extended]  # (T, S), S = 2 U + 1
    score = np.full(len(extended), NEVER)
    score[:2] = emitted[0, :2]
    skips = np.array([s > 1 and extended[s] not in (BLANK, extended[s - 2]) for s in range(len(extended))])
    came = []
    for frame in emitted[1:]:
        before = np.stack([score, _later(score, 1), np.where(skips, _later(score, 2), NEVER)])
        came.append(before.argmax(0))  # how many places back
        score = before.max(0) + frame
    s = len(extended) - 1
    if len(extended) > 1 and score[-2] >= score[-1]:
        s -= 1
    path = [s]
    for back in reversed(came):
        path.append(path[-1] - int(back[path[-1]]))
    return [extended[s] for s in reversed(path)]


def _beam(log_p: np.ndarray, width: int) -> list[int]:
    """log p (T, K) of one example -> units"""
    kept = {(): (0.0, NEVER)}  # beginning -> log p of its paths that end in a blank, and of the others
    for frame in log_p:
        grown = defaultdict(lambda: (NEVER, NEVER))
        likely = [k for k in np.argsort(-frame)[: width + 1].tolist() if k != BLANK]
        for prefix, (blank, unit) in kept.items():
            both = np.logaddexp(blank, unit)
            _add(grown, prefix, blank=both + frame[BLANK])
            if prefix:  # the same sound goes on
                _add(grown, prefix, unit=unit + frame[prefix[-1]])
            for k in likely:  # a repeated unit needs a blank before it
                _add(grown, (*prefix, k), unit=(blank if prefix[-1:] == (k,) else both) + frame[k])
        best = sorted(grown, key=lambda prefix: -np.logaddexp(*grown[prefix]))[:width]
        kept = {prefix: grown[prefix] for prefix in best}
    return list(next(iter(kept)))


def _add(grown: dict, prefix: tuple, *, blank: float = NEVER, unit: float = NEVER) -> None:
    b, u = grown[prefix]
    grown[prefix] = np.logaddexp(b, blank), np.logaddexp(u, unit)


def _later(score: np.ndarray, places: int) -> np.ndarray:
    return np.concatenate([np.full(places, NEVER), score])[: len(score)]


def _doubles(log_p: Tensor) -> np.ndarray:
    return torch.as_tensor(log_p).detach().cpu().double().numpy()
