"""Behind `python lab.py test`: the whole suite in jobs, two at a time, one thread each; the longest begin first.

The browser tests are three jobs, every notebook is one, the other tests are four. A job's output is shown when it ends,
and the last line adds up what all of them say.
Standard library only; every Python from 3.6 must be able to import it.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from lab_system import path, say, venv_python

AT_ONCE, GROUPS, BROWSERS, POLL_S = 2, 4, 3, 0.1
WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warning", "error")
NO_TESTS = 5  # pytest's exit status when a job holds none


def jobs():
    """-> what each pytest gets, the longest first"""
    groups = dealt(tests_in("tests"), GROUPS)
    browser = dealt(tests_in("tests", "browser"), BROWSERS)
    folder = path("notebooks")
    notebooks = [[path("notebooks", name)] for name in sorted(os.listdir(folder)) if name.endswith(".ipynb")]
    turns = [job for pair in zip(browser, groups, strict=False) for job in pair]  # a browser beside other tests
    return [job for job in turns + groups[BROWSERS:] + notebooks if job]


def dealt(tests, hands):
    return [tests[number::hands] for number in range(hands)]


def tests_in(*folder):
    """-> its test files, the largest first"""
    if not os.path.isdir(path(*folder)):
        return []
    tests = sorted(path(*folder, name) for name in os.listdir(path(*folder)) if re.match(r"test_.*\.py$", name))
    return sorted(tests, key=os.path.getsize, reverse=True)


def start(job):
    """-> (process, file of its output)"""
    output = tempfile.TemporaryFile()
    command = [venv_python(), "-m", "pytest", "-p", "no:cacheprovider"] + job
    environment = dict(os.environ, PYTHONUTF8="1", OMP_NUM_THREADS="1")
    process = subprocess.Popen(
        command, cwd=path(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
    )
    return process, output


def counted(text):
    """The last line of pytest's that counts tests -> {"passed": 3, …}, or {} where there is none"""
    for line in reversed(text.splitlines()):
        if re.search(r" in [\d.]+s\b", line):
            return {
                word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (\w+)", line) if word.rstrip("s") in WORDS
            }
    return {}


def summary(counts, unfinished, seconds):
    words = [f"{counts[word]} {word}" for word in WORDS if counts.get(word)]
    words += [f"{unfinished} jobs without an end"] if unfinished else []
    return f"{', '.join(words) or 'no tests ran'} in {seconds:.0f}s"


def run_all():
    """Run every job -> exit status, 0 when all that ran has passed."""
    waiting, running, counts, unfinished, status, began = jobs(), [], {}, 0, 0, time.time()
    say(f"{len(waiting)} jobs, {AT_ONCE} at a time: 35 minutes on two cores.")
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(start(waiting.pop(0)))
            ended = [pair for pair in running if pair[0].poll() is not None]
            running = [pair for pair in running if pair not in ended]
            for process, output in ended:
                text = finished(output)
                found = counted(text)
                counts = {word: counts.get(word, 0) + found.get(word, 0) for word in WORDS}
                if process.returncode == NO_TESTS:
                    continue
                unfinished += 0 if found else 1
                status = status or process.returncode or (0 if found else 1)
            time.sleep(0 if ended else POLL_S)
    finally:
        for process, _ in running:  # Ctrl-C has reached them too
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, previous)
    say(summary(counts, unfinished, time.time() - began))
    return status if status >= 0 else 128 - status


def finished(output):
    """Show a job's output -> its text"""
    with output:
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    say(text.rstrip())
    return text
