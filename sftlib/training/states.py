"""The state of what a run is given, as plain values: of its losses, penalty and combine, and of its optimizer."""

import inspect
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.objective import holder_of

# What optimizers keep in the shape of the parameter
ELEMENTWISE = (
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "acc_delta", "sum",
)  # fmt: skip
SET_BY_FIT = ("initial_lr", "control")  # of an optimizer's group


def state_of(function, name: str) -> dict | None:
    """The state of a module, of an object with ``state_dict``, or else its attributes; None where that is nothing.

    ValueError, naming the attribute, for one that cannot be kept.
    """
    holder = holder_of(function)
    if holder is None:
        return None
    if hasattr(holder, "state_dict"):
        return plain(dict(holder.state_dict()), name) or None
    values = {key: v for key, v in getattr(holder, "__dict__", {}).items() if not inspect.isroutine(v)}
    try:
        return plain(values, name) or None
    except ValueError as error:
        raise ValueError(
            f"{error}. It may be state that {type(holder).__name__} keeps from step to step, and would be lost: make "
            "it an nn.Module with buffers, or give it state_dict and load_state_dict"
        ) from None


@torch.no_grad()
def put_state(function, state: dict) -> None:
    """Give ``function`` what `state_of` returned; tensors of the same form keep their identity and their device"""
    holder = holder_of(function)
    if hasattr(holder, "load_state_dict"):
        holder.load_state_dict(state)
        return
    for name, value in state.items():
        present = getattr(holder, name, None)
        if not (isinstance(present, Tensor) and isinstance(value, Tensor)):
            setattr(holder, name, value)
        elif (present.shape, present.dtype) == (value.shape, value.dtype):
            present.copy_(value)
        else:
            setattr(holder, name, value.to(present.device))


def fits(function, state: dict) -> bool:
    """Whether `put_state` would set nothing but attributes that hold values; modules are compared elsewhere"""
    holder = holder_of(function)
    if isinstance(holder, nn.Module) or hasattr(holder, "load_state_dict"):
        return True
    return all(isinstance(name, str) and not hasattr(type(holder), name) for name in state)


def plain(value, name: str):
    """The same value of types that can be loaded without executing code; ValueError, naming it, for any other"""
    if isinstance(value, np.generic):  # a rate that a schedule computed with NumPy
        return value.item()
    if isinstance(value, dict):
        return {plain(key, name): plain(inner, f"{name}[{key!r}]") for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(inner, name) for inner in value)
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(f"got a {type(value).__name__} in {name}; expected numbers, text, tensors, lists or dicts of them")


def require_entries(saved, kinds: dict, where: str) -> None:
    """ValueError unless ``saved`` is a dict with an entry of each of these kinds: a type, or such kinds in a dict."""
    for name, kind in kinds.items():
        own = dict if isinstance(kind, dict) else kind
        if not isinstance(saved, dict) or name not in saved or not isinstance(saved[name], own):
            raise ValueError(f"{where} has no {name!r} that can be used; expected all that save_checkpoint writes")
        if isinstance(kind, dict):
            require_entries(saved[name], kind, f"{where}, {name},")


def require_generators(states: dict, where: str) -> None:
    """ValueError unless `set_generator_states` can take them; tried on generators of their own"""
    kinds = {"torch": Tensor, "cuda": list, "mps": Tensor | None, "python": list, "numpy": list}
    require_entries(states, kinds, where)
    try:
        torch.Generator().set_state(states["torch"])
        version, words, gauss = states["python"]
        random.Random().setstate((version, tuple(words), gauss))
        kind, keys, *rest = states["numpy"]
        np.random.RandomState().set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        if torch.cuda.is_available():
            for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
                torch.Generator(f"cuda:{device}").set_state(state)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{where} has states that a generator does not take ({error}): save it again") from None


def require_same_optimizer(path: Path, state: dict, optimizer: Optimizer) -> None:
    """ValueError unless ``optimizer`` is of the kind, the groups and the shapes of what the file at ``path`` holds"""
    saved, own = state["optimizer"], optimizer.state_dict()
    if state["optimizer_class"] != type(optimizer).__name__:
        raise ValueError(
            f"{path} holds the state of {state['optimizer_class']}, here is {type(optimizer).__name__}: build the "
            "optimizer as the run did"
        )
    for group in saved["param_groups"]:
        require_entries(group, {"params": list}, f"{path}, optimizer,")
    there, here = ([len(g["params"]) for g in each["param_groups"]] for each in (saved, own))
    if there != here:
        raise ValueError(f"{path} holds optimizer groups of {there} tensors, here are {here}: freeze the same parts")
    for theirs, ours in zip(saved["param_groups"], own["param_groups"], strict=True):
        wrong = [k for k, v in ours.items() if k not in SET_BY_FIT and not (k in theirs and _alike(theirs[k], v))]
        if wrong:
            raise ValueError(f"{path}: an optimizer group has no {wrong} as here: build the optimizer as the run did")
    for group, numbers in zip(optimizer.param_groups, (g["params"] for g in own["param_groups"]), strict=True):
        entries = {n: saved["state"][n] for n in numbers if n in saved["state"]}
        alike = all(isinstance(e, dict) for e in entries.values()) and len({frozenset(e) for e in entries.values()}) < 2
        parameters = dict(zip(numbers, group["params"], strict=True))
        if not alike or not all(_is_of(parameters[n], entry) for n, entry in entries.items()):
            raise ValueError(f"{path}: the optimizer's state of tensors {numbers} does not fit them: save it again")


def _alike(theirs, ours) -> bool:
    """Whether an optimizer can take the setting ``theirs`` in place of ``ours``"""
    if isinstance(ours, list | tuple):
        return type(theirs) is type(ours) and len(theirs) == len(ours) and all(map(_alike, theirs, ours))
    if isinstance(ours, str):  # the name that `param_groups` gives
        return theirs == ours
    kinds = (bool | None) if ours is None or isinstance(ours, bool) else (int | float | Tensor)
    return isinstance(theirs, kinds)


def _is_of(parameter: Tensor, entry: dict) -> bool:
    """Whether what an optimizer keeps of each number of a parameter has its shape"""
    kept = [entry[name] for name in ELEMENTWISE if entry.get(name) is not None]
    return all(isinstance(t, Tensor) and t.shape == parameter.shape for t in kept)
