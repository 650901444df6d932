"""What lab.py sees of an environment: tools/lab_probe.py, run by a real one with packages made here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).resolve().parents[1] / "tools" / "lab_probe.py"


@pytest.fixture
def packages(tmp_path):
    """The site-packages of an environment with one package, "thing" 1.7 -> its folder"""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (found,) = (tmp_path / "venv").rglob("site-packages")
    (found / "thing").mkdir()
    sizes = {"thing/__init__.py": b"", "thing/core.py": b"x = 1\n"}
    sizes |= {
        "thing/fast.so.3": b"elf",
        "thing/w.gguf": b"weights",
        "thing/w.pkl": b"weights",
        "thing/cell.png": b"png",
    }
    for name, content in sizes.items():
        (found / name).write_bytes(content)
    (found / "thing-1.7.dist-info").mkdir()
    (found / "thing-1.7.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.7\n")
    lines = [f"{name},sha256=abc,{len(content)}" for name, content in sizes.items()]
    lines += ["thing-1.7.dist-info/RECORD,,", "thing/__pycache__/core.pyc,,"]
    (found / "thing-1.7.dist-info" / "RECORD").write_text("\n".join(lines) + "\n")
    return found


def probe(packages, how, *wanted):
    (python,) = (p for p in (packages.parents[2], packages.parents[1]) if (p / "pyvenv.cfg").exists())
    program = python / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = subprocess.run([program, "-I", str(PROBE), how, *wanted], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_whole_environment_has_no_faults(packages):
    found = probe(packages, "imports", "thing", "json", "thing==1.7")
    assert [found[key] for key in ("missing", "damaged", "failing")] == [[], [], []]
    assert found["python"] == "{}.{}".format(*sys.version_info[:2]) and Path(found["prefix"]).name == "venv"


@pytest.mark.parametrize("word", ["thing==1.8", "other==1.0", "nowhere"])
def test_what_is_not_there_is_named(packages, word):
    assert probe(packages, "quick", "thing", word)["missing"] == [word]


@pytest.mark.parametrize(
    "name, content, seen",
    [
        ("core.py", None, True),
        ("core.py", b"", True),
        ("core.py", b"x = 2  # the learner's own print\n", False),
        ("fast.so.3", b"el", True),
        ("fast.so.3", None, True),
        ("w.gguf", b"weights and more", True),
        ("w.pkl", b"wei", True),
        ("cell.png", b"p", True),
        ("__init__.py", b"", False),
    ],
)
def test_files_that_are_gone_or_cut_are_seen(packages, name, content, seen):
    (packages / "thing" / name).unlink()
    if content is not None:
        (packages / "thing" / name).write_bytes(content)
    assert probe(packages, "files")["damaged"] == ([["thing", "thing/" + name]] if seen else [])
    assert probe(packages, "quick")["damaged"] == []


def test_a_file_of_the_right_size_that_does_not_import_is_seen(packages):
    (packages / "thing" / "__init__.py").write_text("1 / 0")
    assert probe(packages, "files", "thing")["failing"] == []
    assert probe(packages, "imports", "thing")["failing"] == [["thing", "division by zero"]]
