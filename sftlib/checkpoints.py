"""A run on disk: everything that its next step depends on, written whole or not at all."""

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.model import load_safely, require_same_shapes, save_atomically
from sftlib.progress import Progress, generator_states, set_generator_states
from sftlib.records import Controls, Epoch, Step
from sftlib.runtime import FLOAT32, Precision, versions

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of its run, besides what ``load_checkpoint`` put in place; ``fit(…, resume=it)``."""

    epoch: int  # whole epochs
    precision: Precision
    seed: int | None
    versions: dict[str, str | int]
    settings: dict = field(default_factory=dict)
    controls: Controls | None = None
    progress: dict | None = field(default=None, repr=False)  # the place within epoch + 1


def save_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, step: Step | None = None,
    epoch: Epoch | int | None = None, feature_loss=None, combine=None, generator: torch.Generator | None = None,
    precision: Precision | None = None, seed: int | None = None, settings: dict | None = None,
    progress: dict | None = None,
) -> Path:  # fmt: skip
    """Write the run as it is; the previous file stays until the new one is complete.

    ``step`` or ``epoch``, the record that ``fit`` gave last, is enough: it knows the loader, losses, precision and
    controls. With the number of an epoch that is over, pass what has state: the loader's ``generator``, a feature
    loss, a ``combine``. ``settings`` (plain values) are kept for the reader. Killed while it writes, it leaves the
    previous file, and one that ends in .partial, which a later call removes. ``progress`` stands in for the record's
    own: that of several workers, whose `parallel.save_checkpoint` calls this.
    """
    controls = None
    if (step is None) == (epoch is None):
        raise ValueError("expected one of step=record, at any Step of fit, and epoch=record, at an Epoch")
    if not isinstance(epoch, int):
        run = run_at(step or epoch)
        if progress is None and getattr(model, "exchanges", False):
            raise ValueError("got a record of one of several workers; expected sftlib.parallel.save_checkpoint in each")
        progress, controls, epoch = progress or run.state_dict(), run.controls, run.epoch - (not run.over)
        feature_loss, combine, precision = (run.settings[k] for k in ("feature_loss", "combine", "precision"))
    state = {
        "format": FORMAT,
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": _plain(optimizer.state_dict(), "optimizer"),
        "feature_loss": _state(feature_loss),
        "combine": _state(combine),
        "generator": None if generator is None else generator.get_state(),
        "generators": generator_states(),
        "precision": _precision(precision or FLOAT32),
        "seed": seed,
        "settings": _plain(settings or {}, "settings"),
        "controls": controls and [controls.rate, controls.feature_weight],
        "progress": _plain(progress, "progress"),
        "versions": _environment(model),
    }
    return _written(state, Path(path))


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, feature_loss=None, combine=None,
    generator: torch.Generator | None = None, exact: bool = True,
) -> Checkpoint:  # fmt: skip
    """Put the tensors of ``path`` into the objects given, all or none, and say what else the file holds.

    Build the objects as the run did, then ``fit(…, resume=found)``: on a CPU the run goes on bit for bit. That holds
    for the same versions, threads and machine, so another one is a ValueError; with ``exact=False`` the run goes on
    all the same. ValueError for a damaged or foreign file, one of a newer format, or one that does not fit. Executes
    no code.
    """
    path = Path(path)
    state = _read(path)
    modules = {"model": model, "feature_loss": feature_loss, "combine": combine}
    modules = {name: module for name, module in modules.items() if isinstance(module, nn.Module)}
    for name, module in modules.items():
        _require_fit(path, state[name] or {}, module)
    _require_same_groups(path, state["optimizer"], optimizer)
    if exact:
        _require_same_environment(path, state["versions"], _environment(model))
    for name, module in modules.items():
        module.load_state_dict(state[name])
    optimizer.load_state_dict(state["optimizer"])
    if generator is not None and state["generator"] is not None:
        generator.set_state(state["generator"])
    set_generator_states(state["generators"])
    precision = Precision(getattr(torch, state["precision"]["dtype"]), state["precision"]["channels_last"])
    controls = None if state["controls"] is None else Controls(*state["controls"])
    return Checkpoint(
        state["epoch"], precision, state["seed"], state["versions"], state["settings"], controls, state["progress"]
    )


def run_at(record: Step | Epoch) -> Progress:
    """The run that gave ``record``; ValueError unless it was the last one, for the model has moved on since"""
    run = getattr(record, "run", None)
    if not isinstance(run, Progress):
        raise ValueError(f"got a {type(record).__name__}; expected a record that fit gave")
    kind = "epoch" if isinstance(record, Epoch) else "step"
    if getattr(record, kind) != getattr(run, kind) or run.over != (kind == "epoch"):
        raise ValueError(
            f"got the record of {kind} {getattr(record, kind)}, but the run has gone on; expected the record that "
            "fit gave last: save inside the loop over fit(…), before the next record"
        )
    if kind == "step" and not math.isfinite(record.loss):
        raise FloatingPointError(f"the loss is {record.loss} at step {record.step}: this state is not worth keeping")
    return run


def _written(state: dict, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    save_atomically(state, path)
    return path


def _precision(precision: Precision) -> dict:
    return {"dtype": str(precision.dtype).removeprefix("torch."), "channels_last": precision.channels_last}


def _state(part) -> dict | None:
    return part.state_dict() if isinstance(part, nn.Module) else None


def _plain(value, name: str):
    """The same value of types that can be loaded without executing code; ValueError, naming it, for any other"""
    if isinstance(value, np.generic):  # a rate that a schedule computed with NumPy
        return value.item()
    if isinstance(value, dict):
        return {_plain(key, name): _plain(inner, f"{name}[{key!r}]") for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(inner, name) for inner in value)
    if isinstance(value, Tensor | None) or type(value) in (bool, int, float, str):
        return value
    raise ValueError(f"got a {type(value).__name__} in {name}; expected numbers, text, tensors, lists or dicts of them")


def _remove_leftovers(path: Path) -> None:
    """Partial files older than the checkpoint: a process was killed while it wrote them"""
    if path.is_file():
        for partial in path.parent.glob(f"{path.name}.*.partial"):
            with contextlib.suppress(OSError):
                if partial.stat().st_mtime < path.stat().st_mtime:
                    partial.unlink()


def _read(path: Path) -> dict:
    state = load_safely(path)
    if not isinstance(state, dict) or "format" not in state or "optimizer" not in state:
        raise ValueError(f"{path} is no checkpoint of a run: pass a file that save_checkpoint wrote")
    if state["format"] > FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this version reads up to {FORMAT}: update the course")
    if state["format"] == 1:  # between epochs only, and torch's generator alone
        generators = generator_states() | {"torch": state["torch_generator"]}
        state |= {"generators": generators, "combine": None, "settings": {}, "controls": None, "progress": None}
    return state


def _require_fit(path: Path, saved: dict, module: nn.Module) -> None:
    own = module.state_dict()
    saved_tensors, own_tensors = ({k: v for k, v in s.items() if isinstance(v, Tensor)} for s in (saved, own))
    require_same_shapes(path, saved_tensors, own_tensors)
    for name, tensor in own_tensors.items():
        if saved_tensors[name].dtype != tensor.dtype:
            raise ValueError(
                f"{path} does not fit: {name!r} is {saved_tensors[name].dtype} there and {tensor.dtype} here: build "
                "the model in the same number format first"
            )


def _require_same_groups(path: Path, saved: dict, optimizer: Optimizer) -> None:
    there, here = ([len(g["params"]) for g in groups] for groups in (saved["param_groups"], optimizer.param_groups))
    if there != here:
        raise ValueError(f"{path} holds optimizer groups of {there} tensors, here are {here}: freeze the same parts")


def _environment(model: nn.Module) -> dict[str, str | int]:
    """What the bits of a result depend on besides the checkpoint"""
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    device = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return versions() | {"device": device, "cpu": torch.backends.cpu.get_cpu_capability()}


def _require_same_environment(path: Path, saved: dict, here: dict) -> None:
    names = [name for name in here if here[name] != saved.get(name, here[name])]  # a former format knows fewer
    different = [f"{name} {saved[name]} there and {here[name]} here" for name in names]
    if different:
        raise ValueError(
            f"{path} comes from another environment: {', '.join(different)}. The run would go on, but not bit for bit: "
            "use the same one (torch.set_num_threads sets the threads), or pass exact=False to go on all the same"
        )
