"""What a look could move, as it was before: a walk through all that some objects hold, which is then put back."""

import contextlib
import functools
import types
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sftlib.generators import GENERATORS, generator_states, set_generator_states, set_state_of, state_of

MOST_NUMBERS = 2**24  # of a tensor or array that no module and no optimizer owns
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type, types.ModuleType, torch.dtype, torch.device)


@contextlib.contextmanager
def kept(*owners, data: tuple = (), functions: tuple = ()) -> Iterator[None]:
    """Afterwards all is as it was: what modules and optimizers (``owners``) hold, loaders, and random numbers.

    Of loaders and their data sets (``data``) attributes, lists and generators are kept, not the numbers in large
    tensors; of ``functions`` what they read from outside.
    """
    undo: list[Callable[[], None]] = []
    seen: dict[int, object] = {}
    for things, numbers in ((owners, None), (data, 0), (functions, MOST_NUMBERS)):
        _walk(list(things), seen, undo, numbers)
    states = generator_states()
    try:
        with torch.enable_grad():
            yield
    finally:
        for work in undo:
            work()
        set_generator_states(states)


def generators_in(*things) -> list:
    """The random generators that some objects hold, at any depth"""
    seen: dict[int, object] = {}
    _walk(list(things), seen, [], 0)
    return [thing for thing in seen.values() if isinstance(thing, GENERATORS)]


def _walk(todo: list, seen: dict[int, object], undo: list, numbers: int | None) -> None:
    """Visit everything that can be reached from ``todo`` once; ``undo`` gets what puts each thing back."""
    while todo:
        thing = todo.pop()
        if isinstance(thing, PLAIN) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            undo.append(_of_tensor(thing, numbers))
        elif isinstance(thing, np.ndarray):
            if numbers is None or thing.size <= numbers:
                undo.append(functools.partial(_copy_array, thing, thing.copy()))
        elif isinstance(thing, GENERATORS):
            undo.append(functools.partial(set_state_of, thing, state_of(thing)))
        else:
            todo += _inside(thing, undo)


def _inside(thing, undo: list) -> list:
    """What a container, a function or an object holds; ``undo`` gets what puts the same things into it again"""
    if isinstance(thing, dict):
        undo.append(functools.partial(_refill_dict, thing, dict(thing)))
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, (list, deque)):
        undo.append(functools.partial(_refill_list, thing, list(thing)))
        return list(thing)
    if isinstance(thing, set):
        undo.append(functools.partial(_refill_set, thing, set(thing)))
        return list(thing)
    if isinstance(thing, (tuple, frozenset)):
        return list(thing)
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, types.FunctionType):
        return _outside_of(thing, undo)
    held = getattr(thing, "__dict__", None)
    found = [held] if isinstance(held, dict) else []
    for name in _slots(thing):
        value = getattr(thing, name)
        undo.append(functools.partial(_set_slot, thing, name, value))
        found.append(value)
    return found


def _outside_of(function: types.FunctionType, undo: list) -> list:
    """What a function reads from outside: the cells that it closes over, and globals by the names in its code"""
    found = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            undo.append(functools.partial(setattr, cell, "cell_contents", cell.cell_contents))
            found.append(cell.cell_contents)
    for name in _names_in(function.__code__):
        if name in function.__globals__:
            value = function.__globals__[name]
            undo.append(functools.partial(function.__globals__.__setitem__, name, value))
            found.append(value)
    return found


def _names_in(code: types.CodeType) -> set[str]:
    inner = [_names_in(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*inner)


def _slots(thing) -> list[str]:
    kinds = [kind for kind in type(thing).__mro__ if not kind.__module__.startswith(("builtins", "torch", "numpy"))]
    slots = [vars(kind).get("__slots__", ()) for kind in kinds]
    names = [name for some in slots for name in ((some,) if isinstance(some, str) else some)]
    return [name for name in names if name not in ("__dict__", "__weakref__") and name in dir(thing)]


def _set_slot(thing, name: str, value) -> None:
    if getattr(thing, name, None) is not value:
        object.__setattr__(thing, name, value)


def _refill_dict(held: dict, before: dict) -> None:
    same = len(held) == len(before) and all(k in held and held[k] is value for k, value in before.items())
    if not same:
        held.clear()
        held.update(before)


def _refill_list(held: list | deque, before: list) -> None:
    if len(held) != len(before) or any(a is not b for a, b in zip(held, before, strict=True)):
        held.clear()
        held.extend(before)


def _refill_set(held: set, before: set) -> None:
    held.clear()
    held.update(before)


def _copy_array(held: np.ndarray, before: np.ndarray) -> None:
    if held.flags.writeable:
        held[...] = before


def _of_tensor(t: Tensor, numbers: int | None) -> Callable[[], None]:
    """What puts a tensor's numbers, gradient and need of one back; small ones alone if ``numbers`` is a limit"""
    if isinstance(t, torch.nn.parameter.UninitializedTensorMixin):
        return lambda: None
    owned = numbers is None or 0 < t.numel() <= numbers
    copy = t.detach().clone() if owned else None
    grad = t.grad if t.is_leaf else None
    grad_copy = grad.detach().clone() if grad is not None else None
    return functools.partial(_restore, t, copy, grad, grad_copy, t.requires_grad)


@torch.no_grad()
def _restore(t: Tensor, copy: Tensor | None, grad: Tensor | None, grad_copy: Tensor | None, needs: bool) -> None:
    if copy is not None:
        if t.shape == copy.shape and t.dtype == copy.dtype and t.device == copy.device:
            t.data.copy_(copy)
        else:
            t.data = copy
    if t.is_leaf:
        if grad is not None:
            grad.data.copy_(grad_copy)
        if t.grad is not grad:
            t.grad = grad
        if t.requires_grad != needs:
            t.requires_grad_(needs)
