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
        return lab, importlib.import_module("lab_environment"), importlib.import_module("lab_system")
    finally:
        while str(HERE / "tools") in sys.path:
            sys.path.remove(str(HERE / "tools"))


@pytest.fixture
def course(tmp_path, monkeypatch, modules):
    """A course in a folder with a space and letters beyond ASCII, whose installers are fakes that work."""
    lab, environment, system = modules
    root = tmp_path / "ein Kurs für 学生"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "02_cut.ipynb").write_bytes(b"course 2")
    (root / "notebooks" / "03_loss.ipynb").write_bytes(b"course 3")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("torch==2.15.0\n")
    monkeypatch.setattr(system, "ROOT", str(root))
    commands, folders, found = [], [], {"python": "3.12", "prefix": str(root / ".venv"), "missing": []}

    def install(command, cwd, ctrl_c_ends=True):
        commands.append([str(word) for word in command])
        folders.append(Path(cwd))
        (root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        return 0

    monkeypatch.setattr(environment, "run", install)
    monkeypatch.setattr(lab, "run", install)
    monkeypatch.setattr(environment, "find_uv", lambda: "uv")
    monkeypatch.setattr(environment, "probe", lambda python: dict(found) if (root / ".venv" / "bin").is_dir() else None)
    monkeypatch.setattr(environment, "online", lambda: True)
    monkeypatch.setattr(environment, "check_machine", lambda: None)
    monkeypatch.setattr(environment, "free_bytes", lambda: 100 * environment.GB)
    monkeypatch.setattr(environment, "LINUX", True)
    return SimpleNamespace(
        root=root,
        commands=commands,
        folders=folders,
        found=found,
        install=install,
        lab=lab,
        environment=environment,
        system=system,
    )


def read_stamp(course):
    return json.loads((course.root / ".venv" / "lab-stamp.json").read_text())


@pytest.fixture
def index(course, monkeypatch):
    """Whether PyTorch's index of CPU builds can be reached: index["there"]."""
    answer = {"there": True}
    monkeypatch.setattr(course.environment, "output_of", lambda *_, **__: "" if answer["there"] else None)
    return answer
