"""What frames say: beam search against all paths, the alignment against all paths; frames without common padding."""

import itertools
import math

import pytest
import torch

from sftlib.datasets import trimmed
from sftlib.metrics import align, beam_decode, greedy_decode


def drawn(*shape, seed, sharp=1.0):
    return (sharp * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def read(path):
    return [k for k, before in zip(path, (None, *path), strict=False) if k not in (before, 0)]


def paths(log_p):
    """log p (T, K) -> (path, log p of it) of all of them"""
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        yield path, sum(log_p[t, k].item() for t, k in enumerate(path))


@pytest.mark.parametrize("seed", range(7))
def test_a_wide_beam_finds_the_units_whose_paths_are_the_most_probable(seed):
    log_p = drawn(2, 5, 3, seed=seed)
    for frames, found in zip(log_p, beam_decode(log_p, torch.tensor([5, 5]), width=97), strict=True):
        total = {}
        for path, score in paths(frames):
            total[tuple(read(path))] = total.get(tuple(read(path)), 0.0) + math.exp(score)
        assert tuple(found) == max(total, key=total.get)


def test_a_beam_sees_what_the_best_path_does_not():
    """Two frames: blank is the likeliest in each, .36 in all; the paths that read 1 have .64 together"""
    log_p = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    lengths = torch.tensor([2])
    assert greedy_decode(log_p, lengths) == [[]] and beam_decode(log_p, lengths) == [[1]]


def test_a_beam_reads_no_frame_behind_the_end_and_equal_neighbours_need_a_blank():
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0], [1, 1, 1, 2, 0, 1, 1]])
    log_p = (9.0 * torch.nn.functional.one_hot(path, 3)).log_softmax(-1)
    assert beam_decode(log_p, torch.tensor([7, 3]), width=3) == [[1, 1, 2], [1]]
    with pytest.raises(ValueError, match="width"):
        beam_decode(log_p, torch.tensor([7, 3]), width=0)


@pytest.mark.parametrize("units", [[], [1], [2, 2], [1, 2, 1], [1, 1, 2]])
def test_the_alignment_is_the_most_probable_path_that_reads_so(units):
    for seed in range(5):
        log_p = drawn(5, 3, seed=seed, sharp=2.0)
        best = max((pair for pair in paths(log_p) if read(pair[0]) == units), key=lambda pair: pair[1])[0]
        assert align(log_p, units) == list(best)


def test_too_few_frames_for_an_alignment_are_named():
    assert align(drawn(3, 2, seed=1), [1, 1]) == [1, 0, 1]
    with pytest.raises(ValueError, match="2 frames for 2 units; expected at least 3"):
        align(drawn(2, 2, seed=1), [1, 1])
    with pytest.raises(ValueError, match="0 frames for 0 units; expected at least 1"):
        align(drawn(0, 2, seed=1), [])


def test_only_frames_that_are_padding_for_all_are_left_out():
    frames, lengths, y = drawn(3, 11, 5, seed=2), torch.tensor([2, 7, 3]), torch.tensor([1, 0, 1])
    (short, kept), labels = trimmed(((frames, lengths), y), torch.Generator())
    assert torch.equal(short, frames[:, :7]) and kept is lengths and labels is y
