"""For tests of several workers: start them on this machine, and compare what they leave."""

import os
import subprocess
import sys

import torch

from sftlib.parallel import Group

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # sums over a batch in another order, in float32
SAME = {"rtol": 0, "atol": 0}
ALONE = Group(0, 1, torch.device("cpu"))


# How the workers meet. PyTorch for Windows is built without libuv, which --standalone asks for whatever is set: there
# they meet at a file. tests/test_portability.py tries it everywhere.
BY_TCP = ["--standalone"]
AT_A_FILE = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]
NO_AGENT_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(*words, meeting=AT_A_FILE if os.name == "nt" else BY_TCP, **variables):
    """Run a script in two workers, on this machine alone"""
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--local-addr=127.0.0.1"]
    command += ["--monitor-interval=1"]  # s; time for a worker to say that it lost another one, before it is ended
    command += ["--nproc-per-node=2", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables
    environment |= NO_AGENT_STORE if meeting is AT_A_FILE else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def assert_same_state(state, expected, **tolerance):
    assert list(state) == list(expected)
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")
