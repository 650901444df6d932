"""A classifier is two modules: logits = g(f(x)), f the backbone, g the head."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """x (N, …) -> head(backbone(x)): any extractor f joined to any classifier g.

    For picture classifiers x is (N, 3, H, W), z = backbone(x) is (N, D) and the result are logits (N, K).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        for name, part in (("backbone", backbone), ("head", head)):
            if not isinstance(part, nn.Module):
                raise ValueError(f"got a {type(part).__name__} as {name}; expected a torch.nn.Module")
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, H, W) -> logits (N, K)"""
        z = self.backbone(x)  # (N, D)
        return self.head(z)  # (N, K)


class LinearHead(nn.Linear):
    """z (N, D) -> logits (N, K) = z Wᵀ + b, with weight W (K, D) and bias b (K,), initialised as torch does."""

    def __init__(self, feature_dim: int, num_classes: int):
        for name, value in (("feature_dim", feature_dim), ("num_classes", num_classes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"got {name}={value!r}; expected a whole number of at least 1")
        super().__init__(feature_dim, num_classes)

    def forward(self, z: Tensor) -> Tensor:
        """z (N, D) -> logits (N, K)"""
        if z.dim() != 2 or z.shape[1] != self.in_features:
            raise ValueError(
                f"got features of shape {tuple(z.shape)}; this head expects (N, {self.in_features}): "
                "flatten what the backbone gives, or build the head with the backbone's feature_dim"
            )
        return super().forward(z)


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """``with eval_mode(module):`` eval mode inside; afterwards each part is in the mode that it was in."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def save_parts(model: Model, folder: str | Path) -> dict[str, Path]:
    """Write f to ``folder/backbone.pt`` and g to ``folder/head.pt``, each alone; returns the two paths.

    A file is replaced only when its successor is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in ("backbone", "head"):
        paths[name] = folder / f"{name}.pt"
        save_atomically(getattr(model, name).state_dict(), paths[name])
    return paths


def load_parts(model: Model, folder: str | Path, *, backbone: bool = True, head: bool = True) -> Model:
    """Fill f and g of ``model`` (or one of them) from ``folder``; returns the same model.

    Both files are read and compared before anything is changed. Raises ValueError for a missing, damaged or
    non-matching file. Loading executes no code.
    """
    wanted = {"backbone": backbone, "head": head}
    names = [name for name, want in wanted.items() if want]
    states = {name: _read_part(getattr(model, name), Path(folder) / f"{name}.pt") for name in names}
    for name, state in states.items():
        getattr(model, name).load_state_dict(state)
    return model


def save_atomically(state: dict, path: Path) -> None:
    """Write ``state`` so that ``path`` is at every moment either the old file or the new one, whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_safely(path: Path) -> dict:
    """Read what ``save_atomically`` wrote; tensors and plain values only, onto the CPU."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: save the model first, or correct the folder")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(f"{path} cannot be read as tensors (damaged, or not ours): save it again") from error


def _read_part(module: nn.Module, path: Path) -> dict[str, Tensor]:
    state, own = load_safely(path), module.state_dict()
    require_same_shapes(path, state, own)
    return state


def require_same_shapes(path: Path, saved: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """ValueError, naming the first difference, unless both states have the same names and shapes."""
    there, here = ({k: tuple(v.shape) for k, v in state.items()} for state in (saved, own))
    different = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))
    if different:
        k = different[0]
        raise ValueError(
            f"{path} does not fit: {k!r} has shape {there.get(k, '(missing)')} there and {here.get(k, '(missing)')} "
            f"here ({len(different)} such entries): build the same architecture first"
        )
