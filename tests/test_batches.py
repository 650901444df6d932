"""Batches of any shape: what is an example, what is structure, and what passes through."""

from collections import namedtuple

import pytest
import torch

from sftlib.batches import at_least_float32, check_pair, count, each, joined, leaves, rows, to

N, T = 5, 3
Pair = namedtuple("Pair", "frames lengths")


def nest(n=N):
    return {
        "ids": torch.arange(n * T).reshape(n, T),
        "pictures": [torch.full((3, 2 + i, 7), float(i)) for i in range(n)],
        "deep": (torch.arange(n), Pair(torch.ones(n, T), torch.arange(n)), None, (2, 7), "text"),
    }


def test_count_is_that_of_every_tensor_and_list():
    assert count(nest()) == N and count(torch.zeros(N)) == N and count([None] * N) == N


@pytest.mark.parametrize(
    "wrong, words",
    [
        ((torch.zeros(5), torch.zeros(7)), r"5 in x\[0\], 7 in x\[1\]"),
        ({"a": [1, 2], "b": torch.zeros(3)}, r"2 in x\['a'\], 3 in x\['b'\]"),
        ((2, None), "got a tuple"),
        (torch.tensor(3.0), "without axes"),
        ((torch.zeros(2), torch.tensor(1)), r"without axes in x\[1\]"),
    ],
)
def test_count_refuses_what_does_not_agree(wrong, words):
    with pytest.raises(ValueError, match=words):
        count(wrong)


def test_a_collated_tuple_is_named():
    x = [torch.zeros(5, 2), torch.zeros(5)]  # what default_collate makes of (frames, lengths)
    with pytest.raises(ValueError, match="default_collate"):
        check_pair(x, torch.zeros(5))
    assert check_pair(tuple(x), torch.zeros(5)) == 5


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0, 0])])
def test_rows_are_those_of_every_leaf_one_by_one(index):
    some, chosen = rows(nest(), index), list(range(N))[index] if isinstance(index, slice) else index.tolist()
    assert torch.equal(some["ids"], torch.stack([nest()["ids"][i] for i in chosen]))
    assert [p.shape[1] for p in some["pictures"]] == [2 + i for i in chosen]
    numbers, pair, *rest = some["deep"]
    assert numbers.tolist() == chosen and pair.lengths.tolist() == chosen and isinstance(pair, Pair)
    assert rest == [None, (2, 7), "text"]


def test_parts_joined_are_the_whole():
    whole, parts = nest(), [rows(nest(), slice(0, 2)), rows(nest(), slice(2, N))]
    again = joined(parts)
    assert torch.equal(again["ids"], whole["ids"]) and torch.equal(again["deep"][1].frames, torch.ones(N, T))
    assert all(torch.equal(a, b) for a, b in zip(again["pictures"], whole["pictures"], strict=True))
    assert again["deep"][2:] == whole["deep"][2:]


def test_joined_pads_axis_1_with_zeros():
    a, b = torch.ones(2, 3, 4), torch.full((1, 5, 4), 2.0)
    both = joined([a, b])
    assert both.shape == (3, 5, 4) and both[:2, 3:].eq(0).all() and both[:2, :3].eq(1).all() and both[2].eq(2).all()
    assert joined([torch.zeros(2), torch.ones(3)]).tolist() == [0, 0, 1, 1, 1]


def test_each_and_to_reach_the_tensors_of_a_lists_examples_and_keep_the_make():
    targets = [{"boxes": torch.zeros(i, 4), "name": "p"} for i in range(3)]
    found = each(lambda t: t + 1, (targets, Pair(torch.zeros(3), 7)))
    assert [t["boxes"].shape for t in found[0]] == [(0, 4), (1, 4), (2, 4)] and found[0][2]["boxes"].eq(1).all()
    assert isinstance(found[1], Pair) and found[1].lengths == 7 and found[0][1]["name"] == "p"
    assert to(found, "meta")[0][2]["boxes"].device.type == "meta"


def test_leaves_are_what_each_visits_in_its_order():
    a, b, c, d = (torch.full((2,), float(i)) for i in range(4))
    nest = ({"x": a, "n": 7}, [{"boxes": b}, c], None, (d, "text"))
    visited = []
    each(lambda t: visited.append(t) or t, nest)
    assert [id(t) for t in leaves(nest)] == [id(t) for t in visited] == [id(t) for t in (a, b, c, d)]


def test_half_precision_becomes_float32_and_nothing_else_changes():
    kinds = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]
    found = at_least_float32([torch.ones(2).to(kind) for kind in kinds])
    assert [t.dtype for t in found] == [torch.float32] * 3 + kinds[3:]
