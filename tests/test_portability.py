"""What another system would take amiss: text in an encoding of its own, names of files that it cannot hold."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import said
from launching import AT_A_FILE, BY_TCP, torchrun

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "data", "notebooks", "sftlib", "tests", "tools")
# What Windows has no files of: these letters, a point or space at the end, the names of its devices
NO_NAME = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def names():
    """The course's files, below its root."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT)
            if not {"cache", "__pycache__", ".ipynb_checkpoints"} & set(name.parts):
                yield name


def ruff(*words):
    return subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("words", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda w: w[0])
def test_ruff_finds_nothing(words):
    done = ruff(*words, "--no-cache", ".")
    assert done.returncode == 0, said(done)


@pytest.mark.parametrize("call", ["open('a'{})", "open('a', 'w'{})", "open('a', mode='a'{})"])
def test_ruff_finds_text_in_the_encoding_of_the_system(tmp_path, call):
    for encoding, found in (("", 1), (", encoding='utf-8'", 0)):
        (tmp_path / "a.py").write_text(call.format(encoding) + "\n", encoding="utf-8")
        done = ruff("check", "--no-cache", f"--config={ROOT / 'pyproject.toml'}", str(tmp_path))
        assert done.returncode == found, said(done)


def test_every_file_can_be_put_on_windows_and_macos():
    found = list(names())
    assert len(found) > 100
    assert [str(name) for name in found if any(NO_NAME.search(part) for part in name.parts)] == []
    assert [name for name, n in Counter(str(name).casefold() for name in found).items() if n > 1] == []
    assert [str(name) for name in found if len(str(name)) > 120] == []


@pytest.mark.parametrize("name", ["a:b.py", "what?", "aux.py", "NUL", "end.", "a\\b"])
def test_a_name_that_windows_cannot_hold_is_seen(name):
    assert NO_NAME.search(name) and not NO_NAME.search("auxiliary.py")


# PyTorch for Windows, as far as torchrun goes; Python runs a file of this name at its start
WITHOUT_LIBUV = """
import torch
import torch.distributed as dist

class TCPStore(dist.TCPStore):
    def __init__(self, *words, use_libuv=True, **named):
        if use_libuv:
            raise RuntimeError("use_libuv was requested but PyTorch was built without libuv support")
        super().__init__(*words, use_libuv=False, **named)

dist.TCPStore = dist.rendezvous.TCPStore = torch._C._distributed_c10d.TCPStore = TCPStore
"""
WORKER = """
import sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([2.0 if dist.get_rank() else 5.0])
dist.all_reduce(total)
open(f"{sys.argv[1]}/{dist.get_rank()}", "w", encoding="utf-8").write(str(total.item()))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("meeting, meet", [(AT_A_FILE, True), (BY_TCP, False)], ids=["at a file", "by TCP"])
def test_without_libuv_workers_meet_at_a_file(tmp_path, meeting, meet):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LIBUV, encoding="utf-8")
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    variables = {"PYTHONPATH": str(tmp_path), "USE_LIBUV": "0"}  # Windows' own default, in the workers alone
    done = torchrun(tmp_path / "worker.py", tmp_path, meeting=meeting, **variables)
    results = [(tmp_path / str(rank)).read_text(encoding="utf-8") for rank in (0, 1) if (tmp_path / str(rank)).exists()]
    assert (done.returncode == 0, results) == (meet, ["7.0", "7.0"] if meet else []), said(done)
