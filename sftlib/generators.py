"""What random numbers come from: the global generators, and those that objects keep; their states, and back."""

import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
# Those whose state is made of plain values, and the parts of torch's DataLoader that may keep some, as it itself may
PLAIN = (torch.Generator, np.random.Generator, random.Random)
PARTS = ("dataset", "sampler", "batch_sampler")


def generators_of(loader: Iterable) -> dict:
    """The generators that a loader and its parts keep as attributes, by name; those of plain states alone"""
    parts = {"": loader} | {f"{name}.": getattr(loader, name, None) for name in PARTS}
    held = {where + name: v for where, part in parts.items() for name, v in getattr(part, "__dict__", {}).items()}
    return {name: value for name, value in held.items() if isinstance(value, PLAIN)}


def state_of(generator) -> Tensor | dict | tuple:
    """The state of one of the GENERATORS of torch, NumPy or Python"""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else _bits(generator).state


def set_state_of(generator, state) -> None:
    """Put the generator into a state that `state_of` gave."""
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        _bits(generator).state = state


def _bits(generator) -> np.random.BitGenerator:
    return generator.bit_generator if isinstance(generator, np.random.Generator) else generator


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
