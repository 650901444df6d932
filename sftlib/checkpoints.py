"""A run on disk: everything that the next epoch depends on, written whole or not at all."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from sftlib.model import load_safely, require_same_shapes, save_atomically
from sftlib.runtime import FLOAT32, Precision, versions

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of its run, besides the tensors that ``load_checkpoint`` put in place."""

    epoch: int
    precision: Precision
    seed: int | None
    versions: dict[str, str | int]


def save_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, epoch: int, feature_loss=None,
    generator: torch.Generator | None = None, precision: Precision = FLOAT32, seed: int | None = None,
) -> Path:  # fmt: skip
    """Write the run as it is after ``epoch``; the previous file stays until the new one is complete.

    Holds parameters, buffers, optimizer, a feature loss with state, the loader's ``generator`` and torch's own, the
    precision, seed and versions. Go on with ``fit(…, first_epoch=epoch + 1)`` after ``load_checkpoint``.
    """
    state = {
        "format": FORMAT,
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "feature_loss": feature_loss.state_dict() if isinstance(feature_loss, nn.Module) else None,
        "generator": None if generator is None else generator.get_state(),
        "torch_generator": torch.get_rng_state(),
        "precision": {"dtype": str(precision.dtype).removeprefix("torch."), "channels_last": precision.channels_last},
        "seed": seed,
        "versions": versions(),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(state, path)
    return path


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, feature_loss=None,
    generator: torch.Generator | None = None,
) -> Checkpoint:  # fmt: skip
    """Put the tensors of ``path`` into the objects given, all or none, and say what else the file holds.

    Build the objects as the run did. On the same machine, versions and threads the run goes on bit for bit.
    ValueError for a damaged or foreign file, one of a newer format, or one that does not fit. Executes no code.
    """
    path = Path(path)
    state = load_safely(path)
    if not isinstance(state, dict) or "format" not in state or "optimizer" not in state:
        raise ValueError(f"{path} is no checkpoint of a run: pass a file that save_checkpoint wrote")
    if state["format"] > FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this version reads up to {FORMAT}: update the course")
    require_same_shapes(path, state["model"], model.state_dict())
    if isinstance(feature_loss, nn.Module):
        require_same_shapes(path, state["feature_loss"] or {}, feature_loss.state_dict())
    saved, own = (
        [len(g["params"]) for g in groups] for groups in (state["optimizer"]["param_groups"], optimizer.param_groups)
    )
    if saved != own:
        raise ValueError(f"{path} holds optimizer groups of {saved} tensors, here are {own}: freeze the same parts")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if isinstance(feature_loss, nn.Module):
        feature_loss.load_state_dict(state["feature_loss"])
    if generator is not None and state["generator"] is not None:
        generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_generator"])
    precision = Precision(getattr(torch, state["precision"]["dtype"]), state["precision"]["channels_last"])
    return Checkpoint(state["epoch"], precision, state["seed"], state["versions"])
