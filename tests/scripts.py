"""For tests of the scripts in tools/: run them here or in a process of their own, and pictures to run them on."""

import csv
import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
WORDS = ("--size", "33", "--batch", "5", "--epochs", "3", "--seed", "3")
CLASSES = {"dark": 0, "grey": 60, "light": 120}


def script(name):
    """tools/NAME.py as a module, a new one at each call"""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(name, *words):
    """-> the command line, and the environment of its process"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words)], environment


def run(name, *words):
    """The script in a process of its own -> what it said"""
    line, environment = command(name, *words)
    return subprocess.run(line, capture_output=True, text=True, env=environment)


def heed_ctrl_c():
    """In the child: a shell starts what runs in the background deaf to it, and all that this starts"""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(name, number, after, *words):
    """The script in another process, sent a signal some time after it said a word -> exit code, its errors"""
    line, environment = command(name, *words)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes["preexec_fn"] = None if os.name == "nt" else heed_ctrl_c
    with subprocess.Popen(line, text=True, env=environment, **pipes) as child:
        said = any(after in words for words in child.stdout)
        if said:
            try:
                child.wait(random.uniform(0, 0.2))
            except subprocess.TimeoutExpired:
                child.send_signal(number)
        _, errors = child.communicate(timeout=60)
    assert said, errors
    return child.returncode, errors


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw_noise(root, count=11):
    """root/CLASS/…: so many pictures of each of three classes, 41 x 37 pixels"""
    g = torch.Generator().manual_seed(0)
    for name, base in CLASSES.items():
        (root / name).mkdir()
        for i in range(count):
            noise = torch.randint(128, (37, 41, 3), generator=g, dtype=torch.uint8)
            Image.fromarray((noise + base).numpy()).save(root / name / f"{i}.png")
    return root


def assert_same_run(out, whole):
    """The files of two runs, to the bit"""
    for name in ("log.csv", "test.csv"):
        assert (out / name).read_text() == (whole / name).read_text()
    for name in ("last.pt", "best.pt"):
        mine, its = (torch.load(path / name, weights_only=True) for path in (out, whole))
        assert all(torch.equal(v, its["model"][k]) for k, v in mine["model"].items()) and mine["epoch"] == its["epoch"]
        assert mine["settings"] == its["settings"]
