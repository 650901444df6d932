"""How a worker ends: after all its work without a thread that could outlive Python, at an error at once."""

import json
import os
import re
from pathlib import Path

import pytest
from ending_worker import ORDINARY, TASKS
from helpers import said
from launching import torchrun, worker_alone

SCRIPT = Path(__file__).with_name("ending_worker.py")
GLOO = "gloo"  # in the name of each of its threads


@pytest.fixture
def read_by_nobody():
    """A pipe whose reader is gone, as after `| head -1`"""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def require_parted(done, folder, workers):
    assert done.returncode == 0 and done.stderr.count(ORDINARY) == workers, said(done)
    for rank in range(workers):
        path = folder / f"{rank}.json"
        assert path.exists(), said(done)
        report = json.loads(path.read_text(encoding="utf-8"))
        before, after = ([name for name in names if GLOO in name] for names in report["threads"])
        assert bool(before) == TASKS.exists() and not after, said(done)
        assert report["predicts"], said(done)
        for call in ("fit", "step"):
            assert "whose workers have parted; expected its training within" in report[call], said(done)


def test_two_workers_that_are_done_leave_no_thread_to_gloo(tmp_path):
    done = torchrun(SCRIPT, tmp_path, "by itself")
    require_parted(done, tmp_path, 2)
    # PyTorch's own word where there is no name server: "The hostname of the client socket cannot be retrieved"
    own = [line for line in done.stderr.splitlines() if line != ORDINARY and "socket.cpp" not in line]
    assert own == [], said(done)


def test_exit_with_0_is_an_ordinary_end(tmp_path):
    require_parted(worker_alone(SCRIPT, tmp_path, "exit 0"), tmp_path, 1)


@pytest.mark.parametrize("end, code, words", [("exit 3", 3, "SystemExit: 3"), ("Ctrl-C", 1, "KeyboardInterrupt")])
def test_a_worker_that_cannot_go_on_ends_at_once_with_its_code(end, code, words, tmp_path):
    done = worker_alone(SCRIPT, tmp_path, end)
    ends = re.findall(rf"^{words}$", done.stderr, re.M)
    assert (done.returncode, len(ends), ORDINARY in done.stderr) == (code, 1, False), said(done)


def test_a_worker_to_whom_nobody_listens_ends_at_once(tmp_path, read_by_nobody):
    done = worker_alone(SCRIPT, tmp_path, "print", stdout=read_by_nobody)
    assert (done.returncode, ORDINARY in done.stderr) == (1, False), said(done)
    assert re.findall(r"^\w*Error", done.stderr, re.M) == ["BrokenPipeError"], said(done)
