"""Batches of any shape: a tensor or a list holds N examples, a tuple or a Mapping is structure, the rest passes.

Pictures are one tensor (N, 3, H, W), a text is {"ids": (N, T), "mask": (N, T)}, a sound (frames (N, T, F), lengths
(N,)), a detector's input ([N pictures], [N targets]). A list's examples may be nests: {"boxes": …, "labels": …}.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def each(function: Callable[[Tensor], Tensor], nest):
    """The same nest, ``function`` applied to every tensor in it, those of a list's examples too"""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, (list, tuple, Mapping)):
        return _rebuilt(nest, lambda inner: each(function, inner))
    return nest


def leaves(nest) -> list[Tensor]:
    """The tensors in a nest, in order, those of a list's examples too"""
    if isinstance(nest, Tensor):
        return [nest]
    inner = nest.values() if isinstance(nest, Mapping) else nest if isinstance(nest, (list, tuple)) else ()
    return [t for part in inner for t in leaves(part)]


def at_least_float32(nest):
    """Losses are computed in float32 when autocast gave less; float64 and whole numbers stay."""
    return each(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, nest)


def to(nest, device: torch.device | str, ahead: bool = False):
    """The same nest on ``device``; ``ahead``: the copy is queued and not waited for"""
    return each(lambda t: t.to(device, non_blocking=ahead), nest)


def count(nest) -> int:
    """N, which every tensor and every list of the nest agrees on; ValueError if they do not, or if there is none"""
    counts = dict(_counts(nest, "x"))
    if len(set(counts.values())) != 1:
        what = ", ".join(f"{n} in {where}" for where, n in counts.items()) or f"a {type(nest).__name__}"
        single = ". One example? A split gives these, sftlib.datasets.loader(split, …) makes batches of them"
        raise ValueError(
            f"got {what}; expected tensors or lists of as many examples each (a tuple or a dict is structure, a list "
            f"holds examples){'' if counts else single}"
        )
    return next(iter(counts.values()))


def rows(nest, index: slice | Tensor):
    """The examples that ``index``, a slice or row numbers (M,), names"""
    if isinstance(nest, Tensor):
        return nest[index if isinstance(index, slice) else index.to(nest.device)]
    if isinstance(nest, list):
        return nest[index] if isinstance(index, slice) else [nest[i] for i in index.tolist()]
    if isinstance(nest, (tuple, Mapping)):
        return _rebuilt(nest, lambda inner: rows(inner, index))
    return nest


def joined(nests: Sequence):
    """Nests of n_1, n_2, … examples -> one of n_1 + n_2 + …; where lengths differ, axis 1 is padded with zeros"""
    first = nests[0]
    if isinstance(first, Tensor):
        return torch.cat(_of_one_length(nests)) if first.ndim > 1 else torch.cat(list(nests))
    if isinstance(first, list):
        return [example for some in nests for example in some]
    if isinstance(first, Mapping):
        return {key: joined([nest[key] for nest in nests]) for key in first}
    if isinstance(first, tuple):
        return _tuple(first, [joined(parts) for parts in zip(*nests, strict=True)])
    return first


def check_pair(x, y) -> int:
    """N of a batch (x, y); ValueError unless both hold as many examples"""
    n, of_y = count(x), count(y)
    if n != of_y:
        hint = ""
        if isinstance(x, list) or isinstance(y, list):
            hint = (
                ". A list holds examples and a tuple is structure: DataLoader's default_collate turns a tuple into a "
                "list, so give it a collate_fn that returns tuples, or dicts"
            )
        raise ValueError(f"got {n} examples in x and {of_y} in y; expected as many in both{hint}")
    return n


def pair(given) -> tuple:
    """What a loader gave -> (x, y); ValueError unless it is a tuple or a list of two"""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        many = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise ValueError(
            f"got a {type(given).__name__}{many} as a batch; expected (x, y): let the dataset return two things, or "
            "wrap the loader: [(x, y) for x, y, *_ in loader]"
        )
    return tuple(given)


def as_batch(given, module: nn.Module) -> tuple:
    """What a loader gave -> (x, y), nests of tensors with as many examples; whole numbers in y as int64

    Arrays of NumPy become tensors, those of float64 in the number format of ``module``. ValueError for texts, numbers
    in lists, and unequal numbers of examples.
    """
    x, y = (_with_tensors(value, name, module) for name, value in zip("xy", pair(given), strict=True))
    check_pair(x, y)
    return x, each(_long, y)


def _with_tensors(nest, name: str, module: nn.Module):
    if isinstance(nest, np.ndarray) and nest.dtype.kind in "biuf":
        tensor = torch.from_numpy(np.require(nest, nest.dtype.newbyteorder("="), ["C", "W"]))
        own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
        return tensor.to(own) if tensor.dtype is torch.float64 else tensor
    if isinstance(nest, list) and any(isinstance(item, (str, bool, int, float, complex)) for item in nest):
        kind = f"list of {type(nest[0]).__name__}"
    elif isinstance(nest, (str, np.ndarray)):
        kind = f"array of {nest.dtype}" if isinstance(nest, np.ndarray) else "str"
    elif isinstance(nest, (list, tuple, Mapping)):
        return _rebuilt(nest, lambda inner: _with_tensors(inner, name, module))
    else:
        return nest
    remedy = f"one tensor or array of numbers, its first axis the examples, such as torch.tensor({name})"
    if "str" in kind or "<U" in kind or "object" in kind:
        remedy = "a whole number 0 … K − 1 in place of each text"
        if name == "x":
            remedy = "tokens: nest_loader(split, lambda batch, _: (backbone.preprocess(batch[0]), batch[1]))"
    raise ValueError(f"got {name} as {kind}; expected {remedy}")


def _long(t: Tensor) -> Tensor:
    whole = not (t.is_floating_point() or t.is_complex() or t.dtype is torch.bool)
    return t.long() if whole else t


@contextlib.contextmanager
def explained(x):
    """Within, an error that comes of the number format of x says so."""
    try:
        yield
    except AttributeError as error:
        if isinstance(x, Tensor):
            raise
        raise ValueError(
            f"got x as a {type(x).__name__}, which the model does not take ({error}); expected what its backbone "
            "takes, one tensor for most: to be picked by what makes the batches, or by the backbone's forward"
        ) from error
    except (RuntimeError, TypeError) as error:
        unusual = isinstance(x, Tensor) and x.dtype not in (torch.float32, torch.bfloat16, torch.float16)
        if not unusual or not any(words in str(error) for words in ("type", "not implemented for")):
            raise
        raise ValueError(
            f"got x of {x.dtype}, which the model does not take ({str(error).splitlines()[0]}); expected its own "
            "floating point: x.float(), for pictures the backbone's preprocess, or x.float() / 255"
        ) from error


def _rebuilt(nest, function: Callable):
    """A list, tuple (a named one too) or Mapping of the same make, ``function`` applied to what it holds"""
    if isinstance(nest, Mapping):
        return {key: function(inner) for key, inner in nest.items()}
    inner = [function(item) for item in nest]
    if isinstance(nest, list):
        return inner
    return _tuple(nest, inner)


def _tuple(like: tuple, items: list) -> tuple:
    """A tuple of ``items``; of the class of ``like`` where that is a named one"""
    return type(like)(*items) if hasattr(like, "_fields") else tuple(items)


def _counts(nest, where: str):
    """(where in the nest, number of examples) of each tensor and each list"""
    if isinstance(nest, Tensor):
        if nest.ndim == 0:
            raise ValueError(f"got a tensor without axes in {where}; expected the examples along its first axis")
        yield where, len(nest)
    elif isinstance(nest, list):
        yield where, len(nest)
    elif isinstance(nest, (tuple, Mapping)):
        parts = nest.items() if isinstance(nest, Mapping) else enumerate(nest)
        for key, inner in parts:
            yield from _counts(inner, f"{where}[{key!r}]")


def _of_one_length(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors (n_i, T_i, …) -> (n_i, T, …), T the longest"""
    longest = max(t.shape[1] for t in tensors)
    return [
        t if t.shape[1] == longest else F.pad(t, [0, 0] * (t.ndim - 2) + [0, longest - t.shape[1]]) for t in tensors
    ]
