"""Fixtures for the tests of lab.py: a course in a temporary folder, fake installers, no network, nothing installed."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(HERE / "tools"))
    try:
        spec = importlib.util.spec_from_file_location("lab", HERE / "lab.py")
        lab = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lab)
        names = ("lab_environment", "lab_system", "lab_install", "lab_keep", "lab_my")
        return lab, *(importlib.import_module(name) for name in names)
    finally:
        while str(HERE / "tools") in sys.path:
            sys.path.remove(str(HERE / "tools"))


@pytest.fixture
def course(tmp_path, monkeypatch, modules):
    """A course in a folder with a space and letters beyond ASCII, whose installers are fakes that work."""
    lab, environment, system, installer, keep, my = modules
    root = tmp_path / "ein Kurs für 学生"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "02_cut.ipynb").write_bytes(b"course 2")
    (root / "notebooks" / "03_loss.ipynb").write_bytes(b"course 3")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("torch==2.15.0\n")
    (root / "weights.txt").write_text("# read only\nempythy==1.0.0\n")
    monkeypatch.setattr(system, "ROOT", str(root))
    commands, folders, found = [], [], {"python": "3.12", "prefix": str(root / ".venv")}
    found.update(missing=[], damaged=[], failing=[])

    def install(command, cwd, ctrl_c_ends=True):
        commands.append([str(word) for word in command])
        folders.append(Path(cwd))
        (root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        return 0

    def probe(python, how="quick", wanted=()):
        if not (root / ".venv" / "bin").is_dir():
            return None
        seen = {"quick": ("missing",), "files": ("missing", "damaged"), "imports": ("missing", "damaged", "failing")}[
            how
        ]
        return {key: value if key in (*seen, "python", "prefix") else [] for key, value in found.items()}

    for module in (installer, lab):
        monkeypatch.setattr(module, "run", install)
    for module in (installer, environment):
        monkeypatch.setattr(module, "probe", probe)
    monkeypatch.setattr(environment, "find_uv", lambda: "uv")
    monkeypatch.setattr(environment, "check_machine", lambda: None)
    monkeypatch.setattr(installer, "online", lambda: True)
    monkeypatch.setattr(installer, "free_bytes", lambda: 100 * installer.GB)
    monkeypatch.setattr(installer, "LINUX", True)
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000, raising=False)
    return SimpleNamespace(
        root=root,
        commands=commands,
        folders=folders,
        found=found,
        install=install,
        lab=lab,
        environment=environment,
        system=system,
        installer=installer,
        keep=keep,
        my=my,
    )


def read_stamp(course):
    return json.loads((course.root / ".venv" / "lab-stamp.json").read_text())


@pytest.fixture
def index(course, monkeypatch):
    """Whether PyTorch's index of CPU builds can be reached: index["there"]."""
    answer = {"there": True}
    monkeypatch.setattr(course.installer, "output_of", lambda *_, **__: "" if answer["there"] else None)
    return answer
