"""What random numbers come from: the global generators, and those that a loader keeps; as plain values, and back."""

import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from sftlib.training.states import require_entries

# Parts of torch's DataLoader, which may keep generators of their own, as the loader itself may
PARTS = ("dataset", "sampler", "batch_sampler")
Generator = torch.Generator | np.random.Generator | random.Random


def generators_of(loader: Iterable) -> dict[str, Generator]:
    """The generators that a loader and its parts keep as attributes, by name"""
    parts = {"": loader} | {f"{name}.": getattr(loader, name, None) for name in PARTS}
    attributes = {where + name: value for where, part in parts.items() for name, value in _attributes(part).items()}
    return {name: value for name, value in attributes.items() if isinstance(value, Generator)}


def _attributes(thing) -> dict:
    return getattr(thing, "__dict__", {})


def state_of(generator: Generator) -> Tensor | dict | tuple:
    """The state of a generator of torch, NumPy or Python"""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def set_state_of(generator: Generator, state) -> None:
    """Put the generator into a state that `state_of` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def generator_states() -> dict:
    """The global generators of torch (CPU and every accelerator in use), Python and NumPy, as plain values"""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],
    }


def set_generator_states(states: dict) -> None:
    """Put the global generators into ``states``; those of devices that are not here are passed over."""
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


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
