"""For tests of several workers: start them on this machine, and compare what they leave."""

import os
import subprocess
import sys

import torch
from helpers import said

from sftlib.runtime import Group

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # sums over a batch in another order, in float32
SAME = {"rtol": 0, "atol": 0}
ALONE = Group(0, 1, torch.device("cpu"))


# How the workers meet. PyTorch for Windows is built without libuv, which --standalone asks for whatever is set: there
# they meet at a file. tests/test_portability.py tries it everywhere.
BY_TCP = ["--standalone"]
AT_A_FILE = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
NO_AGENT_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(*words, meeting=AT_A_FILE if os.name == "nt" else BY_TCP, monitor_s=1, **variables):
    """Run a script in two workers, on this machine alone

    ``monitor_s``: how often torchrun looks, and so the least time of a worker to say that it lost another one.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--local-addr=127.0.0.1"]
    command += [f"--monitor-interval={monitor_s}", "--nproc-per-node=2", *map(str, words)]
    return finished(command, ONE_THREAD | variables | (NO_AGENT_STORE if meeting is AT_A_FILE else {}))


def worker_alone(*words, stdout=subprocess.PIPE):
    """Run a script as torchrun runs the only worker of a run, without torchrun"""
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    variables = ONE_THREAD | place | {"TORCHELASTIC_RUN_ID": "alone"} | ({"USE_LIBUV": "0"} if os.name == "nt" else {})
    return finished([sys.executable, *map(str, words)], variables, stdout)


def finished(command, variables, stdout=subprocess.PIPE, timeout_s=600):
    """Run a command to its end -> the process; of one that does not come to an end, what it wrote is the error.

    It is asked to end before it is killed: torchrun takes its workers with it, which are no group with it.
    """
    options = {"stdout": stdout, "stderr": subprocess.PIPE, "text": True, "env": os.environ | variables}
    with subprocess.Popen(command, **options) as child:
        try:
            words = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            words = _end(child)
            done = subprocess.CompletedProcess(command, child.returncode, *words)
            raise AssertionError(f"no end within {timeout_s} s, {said(done)}") from None
        except BaseException:
            _end(child)
            raise
    return subprocess.CompletedProcess(command, child.returncode, *words)


def _end(child):
    child.terminate()
    try:
        return child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()


def assert_same_state(state, expected, **tolerance):
    assert list(state) == list(expected)
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")
