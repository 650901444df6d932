"""A run on disk: everything that its next step depends on, written whole or not at all."""

import copy
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftlib.generators import generator_states, set_generator_states
from sftlib.model.files import (
    is_finite,
    load_safely,
    refuse_nonfinite,
    require_finite,
    require_same_shapes,
    save_atomically,
)
from sftlib.objective import FUNCTIONS, holder_of
from sftlib.parallel import gathered, optimizer_shards, shards_of
from sftlib.runtime import Precision, device_of, versions
from sftlib.training.records import Controls, Epoch, Step
from sftlib.training.run import Run, require_place
from sftlib.training.states import (
    fits,
    plain,
    put_state,
    require_entries,
    require_generators,
    require_same_optimizer,
    state_of,
)

FORMAT = 4
KINDS = {
    "epoch": int, "model": dict, "optimizer": {"state": dict, "param_groups": list}, "optimizer_class": str,
    "functions": dict.fromkeys(FUNCTIONS, dict | None), "generators": dict, "seed": int | None, "settings": dict,
    "precision": {"dtype": str, "channels_last": bool}, "controls": list, "progress": dict, "versions": dict,
}  # fmt: skip


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
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, step: Step | None = None, epoch: Epoch | None = None,
    seed: int | None = None, settings: dict | None = None, allow_nonfinite: bool = False,
) -> Path:  # fmt: skip
    """Write the run as it is; the previous file stays until the new one is complete.

    ``step`` or ``epoch``, the record that ``fit`` gave last, says all of the run: the loader's place, the losses, their
    state, precision and controls. ``settings`` (plain values) are kept for the reader. Killed while it writes, it
    leaves the previous file, and one that ends in .partial, which a later call removes.

    Where several workers share the run call it in *every* one: worker 0 writes. As many go on from the file bit for bit
    (on CPUs, same machine and versions); another number of them, one process included, up to rounding.

    ValueError where the run has left the place of the record: stopped within a step (Ctrl-C), or its loader used by
    another loop. FloatingPointError, naming the tensors, for a state that is not finite, unless ``allow_nonfinite``.
    """
    if (step is None) == (epoch is None):
        raise ValueError("expected one of step=record, at any Step of fit, and epoch=record, at an Epoch")
    run = run_at(step or epoch)
    run.require_own(model, optimizer)
    if not allow_nonfinite:
        require_finite_run(model, optimizer, run)
    tensors = {"model": model.state_dict(), "optimizer": plain(optimizer.state_dict(), "optimizer")}
    plain(tensors["model"], "model")  # what get_extra_state gave must be readable too
    with run.contact():
        progress, tensors = run.state_dict(), gathered(tensors, keep=run.group.leads)  # whole, where it is in shards
    if not run.group.leads:
        return Path(path)
    state = tensors | _of_run(model, optimizer, run) | {"progress": plain(progress, "progress"), "seed": seed}
    state["settings"] = plain(settings or {}, "settings")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_atomically(state, Path(path))
    return Path(path)


def require_goes_on(found: Checkpoint, first_epoch: int, epochs: int, precision: Precision) -> None:
    """ValueError unless `fit` goes on where the checkpoint was made, in the same arithmetic."""
    if not isinstance(found, Checkpoint):
        raise ValueError(f"got a {type(found).__name__} as resume; expected what load_checkpoint returned")
    if first_epoch not in (1, found.epoch + 1):
        raise ValueError(
            f"got first_epoch={first_epoch} and a checkpoint of epoch {found.epoch + 1}; expected resume alone"
        )
    if type(epochs) is int and found.epoch >= epochs:
        raise ValueError(
            f"got epochs={epochs} and a checkpoint of a run that has done {found.epoch}, so nothing is left to do; "
            "expected more epochs, those of before counted too"
        )
    if found.progress is not None and found.precision != precision:
        raise ValueError(
            f"got precision={precision} and a checkpoint of a run in {found.precision}; expected the same: pass "
            "precision=found.precision, with found = load_checkpoint(…)"
        )


def _of_run(model: nn.Module, optimizer: Optimizer, run: Run) -> dict:
    dtype = run.precision.dtype
    return {
        "format": FORMAT,
        "epoch": run.epoch if run.over else run.epoch - 1,
        "optimizer_class": type(optimizer).__name__,
        "functions": {name: state_of(function, name) for name, function in run.objective.functions.items()},
        "generators": generator_states(),
        "precision": {"dtype": str(dtype).removeprefix("torch."), "channels_last": run.precision.channels_last},
        "controls": [run.controls.rate, run.controls.feature_weight],
        "versions": _environment(model),
    }


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: Optimizer, *, task_loss=None, feature_loss=None, penalty=None,
    combine=None, exact: bool = True,
) -> Checkpoint:  # fmt: skip
    """Put the tensors of ``path`` into the objects given, all or none, and say what else the file holds.

    Build the objects as the run did, then ``fit(…, resume=found)``: on a CPU the run goes on bit for bit. Of fit's
    losses, penalty and ``combine`` those that have state (tensors or numbers that they keep) must be given. Bit for bit
    holds for the same versions, threads and machine, so another one is a ValueError; with ``exact=False`` the run goes
    on all the same. ValueError for a damaged or foreign file, one of another format, or one that does not fit.
    Executes no code.
    """
    path = Path(path)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"got {optimizer!r} as optimizer; expected the run's, a torch.optim.Optimizer built as it was there: a "
            "checkpoint is a whole run. Weights alone are kept by save_parts and load_parts"
        )
    state = _read(path)
    found = _described(path, state)
    given = dict(zip(FUNCTIONS, (task_loss, feature_loss, penalty, combine), strict=True))
    require_fit(path, state["model"], model)
    for name, function in given.items():
        _require_function(path, name, state["functions"][name], function)
    require_same_optimizer(path, state, optimizer)
    if exact:
        _require_same_environment(path, state["versions"], _environment(model))
    _put(path, state, model, optimizer, given)
    set_generator_states(state["generators"])
    return found


def run_at(record: Step | Epoch) -> Run:
    """The run that gave ``record``; ValueError unless it was the last one, for the model has moved on since"""
    run = getattr(record, "run", None)
    if not isinstance(run, Run):
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


def require_finite_run(model: nn.Module, optimizer: Optimizer, run: Run) -> None:
    """FloatingPointError, naming them, unless all tensors that train, their optimizer's and the losses' are finite"""
    require_finite(model)
    for function in run.objective.functions.values():
        if isinstance(function, nn.Module):
            require_finite(function)
    saved = optimizer.state_dict()
    names = [
        f"the optimizer's {name} of tensor {index}" for index, entry in saved["state"].items()
        for name, value in entry.items() if isinstance(value, Tensor) and not is_finite(value)
    ]  # fmt: skip
    groups = enumerate(plain(saved["param_groups"], "optimizer"))
    settings = [(i, k, v) for i, group in groups for k, v in group.items() if isinstance(v, float)]
    refuse_nonfinite(names + [f"{k} of the optimizer's group {i}" for i, k, v in settings if math.isnan(v)])


def _read(path: Path) -> dict:
    state = load_safely(path)
    if not isinstance(state, dict) or not isinstance(state.get("format"), int) or "optimizer" not in state:
        raise ValueError(f"{path} is no checkpoint of a run: pass a file that save_checkpoint wrote")
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {state['format']}, this version reads and writes {FORMAT}: go on with the version of "
            "the course that wrote it"
        )
    require_entries(state, KINDS, f"{path}")
    require_generators(state["generators"], f"{path}, generators,")
    require_place(state["progress"], f"{path}, progress,")
    return state


def _described(path: Path, state: dict) -> Checkpoint:
    dtype = getattr(torch, state["precision"]["dtype"], None)
    try:
        controls = Controls(*state["controls"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has no controls that can be used ({error}): save it again") from None
    if not isinstance(dtype, torch.dtype) or state["epoch"] < 0:
        raise ValueError(f"{path} has no precision or epoch that can be used: save it again")
    precision = Precision(dtype, state["precision"]["channels_last"])
    return Checkpoint(
        state["epoch"], precision, state["seed"], state["versions"], state["settings"], controls, state["progress"]
    )


def require_fit(path: Path, saved: dict, module: nn.Module) -> None:
    """ValueError unless the state ``saved`` has the names, shapes and number formats of ``module``"""
    own = module.state_dict()
    require_same_shapes(path, saved, own)
    for name, tensor in own.items():
        if isinstance(tensor, Tensor) and saved[name].dtype != tensor.dtype:
            raise ValueError(
                f"{path} does not fit: {name!r} is {saved[name].dtype} there and {tensor.dtype} here: build "
                "the model in the same number format first"
            )


def _require_function(path: Path, name: str, saved: dict | None, function) -> None:
    own = state_of(function, name)
    if (saved is None) != (own is None):
        got, there = ("no state of", "has state") if saved is None else ("the state of", "has none")
        raise ValueError(
            f"{path} holds {got} a {name}, and the one given here {there}; expected the run's: pass "
            f"{name}={'None' if saved is None else '…'} to load_checkpoint, and to fit what the run had"
        )
    holder = holder_of(function)
    if isinstance(holder, nn.Module) and saved is not None:
        require_fit(path, saved, holder)
    elif saved is not None and not fits(function, saved):
        raise ValueError(f"{path} holds no attributes of a {type(holder).__name__}, which is given as {name}")


def _put(path: Path, state: dict, model: nn.Module, optimizer: Optimizer, given: dict) -> None:
    """Everything into its place; where something is refused only now, what was changed is put back"""
    undo = []
    try:
        undo.append((optimizer.load_state_dict, optimizer.state_dict()))
        optimizer.load_state_dict(optimizer_shards(state["optimizer"], optimizer))
        for name, function in given.items():
            if state["functions"][name] is not None:
                take = functools.partial(put_state, function)
                undo.append((take, copy.deepcopy(state_of(function, name))))
                take(state["functions"][name])
        if any(not isinstance(v, Tensor) or k.endswith("_extra_state") for k, v in state["model"].items()):
            undo.append((model.load_state_dict, copy.deepcopy(model.state_dict())))
        model.load_state_dict(shards_of(state["model"], model.state_dict()))
    except Exception as error:
        for put_back, before in reversed(undo):
            put_back(before)
        raise ValueError(f"{path} does not fit ({error}); nothing was changed: build all as the run did") from error


def _environment(model: nn.Module) -> dict[str, str | int]:
    """What the bits of a result depend on besides the checkpoint"""
    where = device_of(model)
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
