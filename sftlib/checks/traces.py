"""What an answer leaves behind: arguments changed in place, modes and hooks of modules, PyTorch's own switches."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OWN = ("builtins", "collections", "fractions", "decimal", "numpy", "torch", "sftlib")  # their == means what it says

State = dict[str, tuple]


def state_of(value, name: str) -> State:
    """Whatever of `value` a function could change: place -> (kind, …), with copies of all numbers"""
    state: State = {}
    _record(value, name, state)
    return state


def _record(value, place: str, state: State) -> None:
    if isinstance(value, Tensor):
        state[place] = ("tensor", value.detach().clone(), value.requires_grad, _copied(value.grad), _hooks(value))
    elif isinstance(value, nn.Module):
        for name, module in value.named_modules():
            own = (*module.__dict__.values(), *module._modules.values(), *module._parameters.values())
            state[f"{place}.{name}".rstrip(".")] = ("module", module, own, module.training, _hooks(module))
        for name, t in (*value.named_parameters(), *value.named_buffers()):
            _record(t, f"{place}.{name}", state)
    elif isinstance(value, np.ndarray):
        state[place] = ("array", value.copy())
    elif isinstance(value, torch.optim.Optimizer):
        _record(value.state_dict(), place, state)
    elif isinstance(value, dict | list):
        entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        state[place] = ("entries", *[part for entry in entries for part in entry])
        for key, entry in entries:
            _record(entry, f"{place}[{key!r}]", state)
    elif isinstance(value, tuple):
        for i, entry in enumerate(value):
            _record(entry, f"{place}[{i}]", state)


def _copied(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().clone()


def _hooks(owner: Tensor | nn.Module) -> int:
    return sum(len(getattr(owner, name, None) or ()) for name in HOOKS)


def difference(before: State, after: State) -> str | None:
    """The first thing that changed, in words; None where nothing did"""
    for place, was in before.items():
        if place not in after or after[place][0] != was[0]:
            return f"{place} is another thing than before"
        if words := COMPARE[was[0]](was[1:], after[place][1:]):
            return f"{place} {words}"
    return None


def _tensor_change(was: tuple, now: tuple) -> str | None:
    if not _same(was[0], now[0]):
        return "holds other numbers than before"
    if was[1] != now[1]:
        return f"has requires_grad={now[1]}, it had {was[1]}"
    if not _same(was[2], now[2]):
        return "has another gradient in .grad than before"
    return "has a hook more or less than before" if was[3] != now[3] else None


def _module_change(was: tuple, now: tuple) -> str | None:
    if was[2] != now[2]:
        return f"was left in {'training' if now[2] else 'eval'} mode"
    if was[0] is not now[0] or len(was[1]) != len(now[1]) or not all(map(_is, was[1], now[1])):
        return "has other parts or attributes than before"
    return "has a hook more or less than before" if was[3] != now[3] else None


def _array_change(was: tuple, now: tuple) -> str | None:
    return None if _same(*(torch.from_numpy(v[0]) for v in (was, now))) else "holds other numbers than before"


def _entries_change(was: tuple, now: tuple) -> str | None:
    same = len(was) == len(now) and all(_is(a, b) for a, b in zip(was, now, strict=True))
    return None if same else "has other entries, or another order, than before"


def _is(a, b) -> bool:
    plain = type(a) is type(b) and isinstance(a, int | float | str | bool)
    return a is b or (plain and (a == b or a != a))


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


COMPARE: Mapping[str, Callable[[tuple, tuple], str | None]] = {
    "tensor": _tensor_change,
    "module": _module_change,
    "array": _array_change,
    "entries": _entries_change,
}

SWITCHES = (
    ("the gradients are switched off or on for good", torch.is_grad_enabled, torch.set_grad_enabled),
    ("the default dtype is another", torch.get_default_dtype, torch.set_default_dtype),
    ("deterministic algorithms are switched on or off", torch.are_deterministic_algorithms_enabled,
     torch.use_deterministic_algorithms),
    ("the default device is another", lambda: str(torch.get_default_device()),
     lambda device: torch.set_default_device(None if device == "cpu" else device)),
)  # fmt: skip


@contextlib.contextmanager
def switches_kept(found: list[str]) -> Iterator[None]:
    """Put PyTorch's switches back as they were, and add to `found` what was left otherwise, in words"""
    before = [read() for _, read, _ in SWITCHES]
    try:
        yield
    finally:
        for (words, read, write), value in zip(SWITCHES, before, strict=True):
            if read() != value:
                write(value)
                found.append(words)


@contextlib.contextmanager
def as_at_the_start() -> Iterator[None]:
    """Gradients on and float32 inside, whatever the notebook did; all random numbers afterwards as before"""
    draws, numpy_draws, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(draws)
        np.random.set_state(numpy_draws)


def plain(value):
    """`value` without the subclass that could answer a comparison for it; ValueError where it cannot be taken off"""
    kind = type(value)
    if isinstance(value, Tensor) and kind is not nn.Parameter:
        with torch._C.DisableTorchFunctionSubclass():
            return value if kind is Tensor else value.as_subclass(Tensor)
    if isinstance(value, np.ndarray) and kind is not np.ndarray:
        return np.array(value, subok=False)
    for base in (bool, int, float, complex, str):
        if isinstance(value, base) and not isinstance(value, np.generic):
            return value if kind is base else base.__new__(base, base.__str__(value) if base is str else value)
    if isinstance(value, list | tuple | dict):
        return _plain_entries(value)
    if kind.__eq__ is not object.__eq__ and kind.__module__.split(".")[0] not in OWN:
        raise ValueError(f"got a {kind.__name__}, which says itself what it is equal to; expected plain values")
    return value


def _plain_entries(value: Sequence | Mapping):
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in dict.items(value)}
    entries = [plain(entry) for entry in (list if isinstance(value, list) else tuple).__iter__(value)]
    return entries if isinstance(value, list) else tuple(entries)
