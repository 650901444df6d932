#!/usr/bin/env python3
"""A course on supervised fine-tuning, in two commands (Linux, macOS 14+ on Apple silicon, Windows):

  python lab.py              set up what is missing, then open the notebooks in JupyterLab
  python lab.py test         set up what is missing, then run the tests

and three helpers:

  python lab.py setup        only set up (everything goes into a folder .venv beside this file)
  python lab.py reset 02     a fresh copy of notebook 02; yours is kept beside it
  python lab.py --help       this text

JupyterLab opens in my/, your working copies of notebooks/. What you change there is never overwritten.
--cpu with any of them takes PyTorch's CPU builds (Linux; a sixth of the download). The choice is
remembered; --no-cpu goes back. Further arguments go to JupyterLab or pytest:
  python lab.py --port 9000             python lab.py test tests/test_lab.py -x
"""

# ruff: noqa: UP031, UP032, UP036
# Python 2 must be able to read this file to the end, or its users would see a SyntaxError instead of
# what to do: so no f-strings, no annotations, no keyword-only arguments here.
import errno
import hashlib
import itertools
import os
import re
import socket
import sys

if sys.version_info < (3, 6):
    sys.exit("This is Python %d.%d; the course needs Python 3.11 to 3.14. Try: python3 lab.py" % sys.version_info[:2])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "tools"))
from lab_environment import setup  # noqa: E402
from lab_system import (  # noqa: E402
    Problem,
    guarded,
    path,
    read_json,
    relaunch,
    run,
    say,
    suits,
    venv_python,
    write_json,
    write_whole,
)

COMMANDS = ("lab", "test", "setup", "reset")


# ---------------------------------------------------------------- working copies in my/


def course_notebooks():
    folder = path("notebooks")
    return sorted(n for n in os.listdir(folder) if n.endswith(".ipynb")) if os.path.isdir(folder) else []


def read(name):
    with open(name, "rb") as file:
        return file.read()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def copy_notebooks():
    """Give my/ the notebooks it lacks and renew those the learner has not touched -> names of the outdated others."""
    os.makedirs(path("my"), exist_ok=True)
    given = read_json(path("my", ".copies.json"))  # name -> digest of what the course gave
    outdated, before = [], dict(given)
    for name in course_notebooks():
        course, mine = read(path("notebooks", name)), path("my", name)
        there = digest(read(mine)) if os.path.lexists(mine) else None
        if there is None or (there == given.get(name) and there != digest(course)):
            write_whole(mine, course)
        elif there != digest(course) and given.get(name) != digest(course):
            outdated.append(name)
            continue
        given[name] = digest(course)
    if given != before:
        write_json(path("my", ".copies.json"), given)
    return outdated


def find_notebook(word):
    """ "2", "02", "02_decoupling" or "02_decoupling.ipynb" -> the notebook's file name."""
    names = course_notebooks()
    stem = os.path.basename(word)[: -len(".ipynb")] if word.endswith(".ipynb") else word
    stem = stem.zfill(2) if stem.isdigit() else stem
    found = [n for n in names if n == stem + ".ipynb" or n.startswith(stem + "_")]
    if len(found) != 1:
        raise Problem("There is no notebook %r. Choose one of: %s" % (word, ", ".join(n[:-6] for n in names)))
    return found[0]


def keep(name):
    """Move my/NAME aside under the first free numbered name, overwriting nothing -> that name."""
    for number in itertools.count(1):
        kept = "%s-old-%d.ipynb" % (name[: -len(".ipynb")], number)
        try:
            os.close(os.open(path("my", kept), os.O_CREAT | os.O_EXCL))  # ours now, whoever else looks for one
        except FileExistsError:
            continue
        os.replace(path("my", name), path("my", kept))
        return kept


def reset(words):
    """A fresh copy of each named notebook; the learner's own is kept beside it."""
    if not words:
        raise Problem("Which notebook? For example: python lab.py reset 02")
    for name in [find_notebook(word) for word in words]:
        mine, kept = path("my", name), None
        if os.path.lexists(mine) and read(mine) != read(path("notebooks", name)):
            kept = keep(name)
        copy_notebooks()
        say("my/%s is the course's again%s." % (name, "; yours is kept as my/" + kept if kept else ""))
    return 0


# ---------------------------------------------------------------- commands


def check_port(arguments):
    """JupyterLab looks for a free port by itself; one that the user has fixed and that is taken is a Problem."""
    match = re.search(r"(?:^|\s)--(?:port|\w+\.port)[= ](\d+)(?=\s|$)", " ".join(arguments))
    if not match or not 0 < int(match.group(1)) < 65536:
        return
    reason = bind_error(int(match.group(1)))
    if reason:
        raise Problem(
            "Port %s %s (perhaps a JupyterLab that still runs?). Choose another one, or leave the option out: "
            "JupyterLab then takes the next free port by itself." % (match.group(1), reason)
        )


def bind_error(port):
    """Why no server can listen on a port -> words, or "" when one can."""
    with socket.socket() as probe:
        if os.name != "nt":  # a port just left by another JupyterLab is free; on Windows the flag means something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "needs administrator rights" if error.errno == errno.EACCES else "is taken by another program"
    return ""


def lab(arguments):
    check_port(arguments)
    for name in copy_notebooks():
        say("The course has a newer %s; yours is left as it is. A fresh one: python lab.py reset %s" % (name, name[:2]))
    say("Opening JupyterLab in my/ (stop it with Ctrl-C here).")
    return run([venv_python(), "-m", "jupyterlab"] + arguments, path("my"), ctrl_c_ends=False)


def test(arguments):
    return run([venv_python(), "-m", "pytest"] + arguments, path(), ctrl_c_ends=False)


def split(arguments):
    """-> (command, cpu: True, False or None, what is passed on)"""
    cpu = None
    for word in arguments:
        cpu = {"--cpu": True, "--no-cpu": False}.get(word, cpu)
    rest = [word for word in arguments if word not in ("--cpu", "--no-cpu")]
    if rest and rest[0] in COMMANDS:
        return rest[0], cpu, rest[1:]
    if rest and rest[0] in ("-h", "--help", "help"):
        return "help", cpu, []
    if rest and re.match(r"[a-z]+$", rest[0]) and not os.path.exists(path("my", rest[0])):
        raise Problem("There is no command %r; see: python lab.py --help" % rest[0])
    return "lab", cpu, rest


def main(arguments):
    command, cpu, rest = split(arguments)
    if command == "help":
        say(__doc__.strip())
        return 0
    if command == "reset":
        return reset(rest)
    if not suits(sys.version_info):
        return relaunch(path("lab.py"), arguments)
    if command == "setup" and rest:
        raise Problem("`python lab.py setup` takes no further arguments than --cpu, but got: " + " ".join(rest))
    setup(cpu, retry=command == "setup", offline_ok=command != "setup")
    if command == "setup":
        copy_notebooks()
        say("Everything is there. Start with: python lab.py")
        return 0
    return {"lab": lab, "test": test}[command](rest)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
