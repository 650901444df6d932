"""f and g on disk, each alone, and what else is written whole or not at all."""

import contextlib
import glob
import os
import uuid
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

# What stands in the names of a wrapped module's state, and who put it there
WRAPPERS = {"module": "DataParallel or DistributedDataParallel", "_orig_mod": "torch.compile"}


def save_parts(model: nn.Module, folder: str | Path, *, allow_nonfinite: bool = False) -> dict[str, Path]:
    """Write f to ``folder/backbone.pt`` and g to ``folder/head.pt``, each alone; returns the two paths.

    Both files are complete before the first one is replaced, and carry the same mark, by which `load_parts` sees that
    they belong together. FloatingPointError, naming them, for tensors that are not finite, unless ``allow_nonfinite``;
    OSError, with the old files as they were, where the disk is full. A killed call's leftovers go with a later one.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"got a {type(model).__name__} as model; expected save_parts(model, folder)")
    if not allow_nonfinite:
        require_finite(model)
    folder, mark = Path(folder), uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    states, paths = {}, {}
    for name in ("backbone", "head"):
        paths[name] = folder / f"{name}.pt"
        states[paths[name]] = getattr(model, name).state_dict()
        states[paths[name]].saved_with = mark  # an attribute: the file stays a plain state_dict
    _save_together(states)
    return paths


def load_parts(model: nn.Module, folder: str | Path, *, backbone: bool = True, head: bool = True) -> nn.Module:
    """Fill f and g of ``model`` (or one of them) from ``folder``; returns the same model.

    Both files are read and compared before anything is changed. Raises ValueError for a missing, damaged or
    non-matching file, for an f and a g of different saves, and where f and g share a tensor and the files hold two
    values of it. Loading executes no code.
    """
    wanted = {"backbone": backbone, "head": head}
    paths = {name: Path(folder) / f"{name}.pt" for name, want in wanted.items() if want}
    states = {name: _read_part(getattr(model, name), path) for name, path in paths.items()}
    if len({getattr(state, "saved_with", None) for state in states.values()}) > 1:
        raise ValueError(
            f"{paths['backbone']} and {paths['head']} come from different saves, so g was not trained on this f: save "
            "both again. To join them all the same, load one with head=False and the other with backbone=False"
        )
    _require_one_value(model, states)
    for name, state in states.items():
        getattr(model, name).load_state_dict(state)
    return model


def _require_one_value(model: nn.Module, states: dict[str, dict]) -> None:
    """ValueError if a tensor that f and g share would get one value as f's and another as g's, or lose its own"""
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    for name, p in model.head.named_parameters(remove_duplicate=False):
        if id(p) not in names:
            continue
        now = p.detach().cpu()
        in_f = states.get("backbone", {}).get(names[id(p)], now)
        in_g = states.get("head", {}).get(name, now)
        if not torch.equal(in_f.to(now.dtype), in_g.to(now.dtype)):
            raise ValueError(
                f"f's {names[id(p)]} and g's {name} are one tensor here and two in what is loaded; expected one value: "
                "load both parts of one save, or give g a tensor of its own first (sftlib.adaptation.untie)"
            )


def require_finite(module: nn.Module) -> None:
    """FloatingPointError, naming them, if parameters are not finite or buffers hold NaN (a mask may be infinite)."""
    parameters = {id(p) for p in module.parameters()}
    tensors = [(name, t) for name, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)]
    refuse_nonfinite([name for name, t in tensors if not is_finite(t, infinite_is_fine=id(t) not in parameters)])


def is_finite(t: Tensor, *, infinite_is_fine: bool = False) -> bool:
    """Whether ``t`` holds no NaN, and nothing infinite unless that is fine; waits for the device"""
    if not (t.is_floating_point() or t.is_complex()):
        return True
    t = t.detach().float() if t.element_size() == 1 else t.detach()  # float8 has no such test
    return not (t.isnan() if infinite_is_fine else ~t.isfinite()).any().item()


def refuse_nonfinite(names: list[str]) -> None:
    """FloatingPointError if there are any"""
    if names:
        raise FloatingPointError(
            f"{len(names)} value(s) of this state are not finite: {', '.join(names[:5])}. It is not worth keeping: go "
            "on from an earlier one with a lower learning rate, or pass allow_nonfinite=True to keep it all the same"
        )


def save_atomically(state: dict, path: Path) -> None:
    """Write ``state`` so that ``path`` is at every moment either the old file or the new one, whole.

    A link stays one: its target is written. OSError, in plain words, where the disk is full.
    """
    _save_together({path: state})


def _save_together(states: dict[Path, dict]) -> None:
    targets = {Path(os.path.realpath(path)): state for path, state in states.items()}
    partials = {path: path.with_name(f"{path.name}.{os.getpid()}.partial") for path in targets}
    try:
        for path, state in targets.items():
            _remove_leftovers(path)
            _write(state, partials[path])
        for path, partial in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


class _Noted:
    """A file that keeps the error of a write: torch replaces it by one of its own, which speaks of positions"""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data) -> int:
        return self._noting(self.file.write, data)

    def flush(self) -> None:
        self._noting(self.file.flush)

    def _noting(self, method, *values):
        try:
            return method(*values)
        except OSError as error:
            self.error = error
            raise


def _write(state: dict, partial: Path) -> None:
    noted = None
    try:
        with open(partial, "wb") as file:
            noted = _Noted(file)
            torch.save(state, noted)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else noted and noted.error
        if cause is None:
            raise
        raise OSError(
            cause.errno,
            f"{partial.parent} does not take the file ({cause.strerror or cause}); what was there before is as it "
            "was: free some space, or choose another folder",
        ) from None


def _remove_leftovers(path: Path) -> None:
    """Partial files older than the file itself: a process was killed while it wrote them"""
    if path.is_file():
        for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            with contextlib.suppress(OSError):
                if partial.stat().st_mtime < path.stat().st_mtime:
                    partial.unlink()


def load_safely(path: Path) -> dict:
    """Read what ``save_atomically`` wrote; tensors and plain values only, onto the CPU.

    ValueError for a file that is missing, not ours, or damaged, be it by a single bit.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: save the model first, or correct the folder")
    try:
        _require_whole(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as tensors (damaged, or not ours): save it again") from error


def _require_whole(path: Path) -> None:
    """ValueError unless every entry has its checksum, which torch does not look at, and nothing unfolds in memory"""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
            raise ValueError("an entry is compressed, which torch.save never does")
        if sum(e.file_size for e in entries) > path.stat().st_size:
            raise ValueError("the entries overlap")
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {broken} does not fit")


def _read_part(module: nn.Module, path: Path) -> dict[str, Tensor]:
    state, own = load_safely(path), module.state_dict()
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; expected the state_dict of a module, as save_parts")
    inner = [key for key, value in state.items() if isinstance(value, dict) and key not in own]
    if inner:
        raise ValueError(
            f"{path} holds a dict under {inner[0]!r} among {len(state)} entries; expected the state_dict of a module "
            f"itself: torch.save(torch.load(path, weights_only=True)[{inner[0]!r}], path), where that is its state"
        )
    require_same_shapes(path, state, own)
    return state


def require_same_shapes(path: Path, saved: dict, own: dict) -> None:
    """ValueError, naming the first difference, unless both states have the same names and shapes."""
    there, here = ({k: _shape(v) for k, v in state.items()} for state in (saved, own))
    different = sorted((k for k in there.keys() | here.keys() if there.get(k) != here.get(k)), key=str)
    if different:
        k = different[0]
        raise ValueError(
            f"{path} does not fit: {k!r} has shape {there.get(k, '(missing)')} there and {here.get(k, '(missing)')} "
            f"here ({len(different)} such entries): {_remedy(set(there), set(here))}"
        )


def _shape(value) -> tuple | str:
    if not isinstance(value, Tensor):
        return type(value).__name__  # what get_extra_state gave
    return tuple(value.shape) if value.layout is torch.strided and not value.is_meta else "(without values)"


def _remedy(there: set, here: set) -> str:
    """What to do about names that differ; a wrapper's part of them is named if nothing else does"""
    bare = [{".".join(p for p in str(k).split(".") if p not in WRAPPERS) for k in names} for names in (there, here)]
    parts = {p for k in there ^ here for p in str(k).split(".")}
    if there != here and bare[0] == bare[1]:
        found = [f"{wrapper!r} (of {by})" for wrapper, by in WRAPPERS.items() if wrapper in parts]
        return f"the names differ by {' and '.join(found)} alone: save and load the module inside the wrapper"
    return "build the same architecture first"
