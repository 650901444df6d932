"""Run code cells in a fresh kernel and collect exactly the outputs that nbval would collect.

nbval runs cells without a history (so a trailing `;` hides nothing), ignores `clear_output` and display updates, and
has no front end (so what `with out:` captures lands in the cell, errors in callbacks included). Cells are run here in
the same way: what is stored compares equal.
"""

import ast
import os
import queue
import re
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat.v4
from jupyter_client.manager import KernelManager

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

# Exceptions in threads and tasks stop nothing and are compared nowhere: they are kept in a list, read after each cell.
GUARD = """
def _guard():
    import asyncio, sys, threading
    sys._uncaught = found = []
    sys._threads_before = set(threading.enumerate())
    report = threading.excepthook
    def in_thread(args):
        found.append(f"thread {args.thread.name}: {args.exc_type.__name__}: {args.exc_value}")
        report(args)
    def in_task(loop, context):
        error = context.get("exception")
        found.append(f"task: {type(error).__name__}: {error}" if error else f"task: {context['message']}")
    threading.excepthook = in_thread
    asyncio.get_event_loop().set_exception_handler(in_task)
_guard()
del _guard
"""
COLLECT = "__import__('gc').collect()"  # a task reports its exception when it is collected
WAIT = """
def _wait(seconds=5.0):
    import sys, threading, time
    end = time.monotonic() + seconds
    for thread in set(threading.enumerate()) - sys._threads_before:
        thread.join(max(0.0, end - time.monotonic()))
_wait()
del _wait
"""


def uncaught(client, *, wait):
    """Exceptions that escaped in the kernel's threads and tasks since the last call; wait: let threads end first."""
    code = (WAIT if wait else "") + COLLECT
    asked = {"found": "[__import__('sys')._uncaught.pop(0) for _ in range(len(__import__('sys')._uncaught))]"}
    request = client.execute(code, silent=True, store_history=False, user_expressions=asked)
    while (reply := client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != request:
        pass
    answer = reply["content"].get("user_expressions", {}).get("found", {})
    return (
        ast.literal_eval(answer["data"]["text/plain"])
        if answer.get("status") == "ok"
        else [str(answer or reply["content"])]
    )


def install_guard(client):
    """Start to collect what `uncaught` reports; call it before the first cell."""
    client.execute(GUARD, silent=True, store_history=False)


class Session:
    """A running kernel; `run(code, live=False)` gives (outputs, seconds)."""

    def __init__(self, manager, client, timeout_s):
        self.manager, self.client, self.timeout_s = manager, client, timeout_s

    def run(self, code, *, live=False):
        """code -> (outputs, seconds); live: honour clear_output and display updates, as a front end does."""
        started, outputs = time.monotonic(), []
        request = self.client.execute(code, store_history=False, allow_stdin=False, stop_on_error=False)
        for message in self._messages(request, started + self.timeout_s):
            self._store(message, outputs, live)
        return _joined(outputs), time.monotonic() - started

    def _messages(self, request, deadline):
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                if not self.manager.is_alive():
                    raise RuntimeError("the kernel died (out of memory, or the code ended the process)") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no end after {self.timeout_s:.0f} s") from None
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message

    @staticmethod
    def _store(message, outputs, live):
        kind, content = message["msg_type"], message["content"]
        if kind in ("stream", "display_data", "execute_result", "error"):
            output = nbformat.v4.output_from_msg(message)
            output["_display"] = content.get("transient", {}).get("display_id")
            outputs.append(output)
        elif kind == "clear_output" and live:
            outputs.clear()
        elif kind == "update_display_data" and live:
            for output in outputs:
                if output["_display"] == content["transient"]["display_id"]:
                    output["data"] = nbformat.from_dict(content["data"])


def _joined(outputs):
    """Adjacent pieces of one stream as one output: how a stream is cut into messages differs from run to run."""
    result = []
    for output in outputs:
        output.pop("_display")
        if output["output_type"] == "stream" and result and result[-1].get("name") == output["name"]:
            result[-1]["text"] += output["text"]
        else:
            result.append(output)
    return result


@contextmanager
def session(folder, *, timeout_s=300.0, **environment):
    """Yield a Session whose kernel works in `folder`; `environment` is set in the kernel's process only."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # no start-up files of the author's own
        env = {**os.environ, "IPYTHONDIR": profile, **environment}
        for name in ("MPLBACKEND", "PYTHONWARNINGS"):
            env.pop(name, None)
        manager = KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        with open(Path(profile, "stderr"), "wb") as stderr:
            manager.start_kernel(env=env, cwd=str(folder), stderr=stderr, stdout=stderr)
            client = manager.client()
            try:
                client.start_channels()
                client.wait_for_ready(timeout=60)
                install_guard(client)
                yield Session(manager, client, timeout_s)
            finally:
                with suppress(Exception):
                    client.stop_channels()
                manager.shutdown_kernel(now=True)
