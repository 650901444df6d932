#!/usr/bin/env python3
"""A course on supervised fine-tuning, in two commands (Linux, macOS 14+ on Apple silicon, Windows):

  python lab.py              set up what is missing, then open the notebooks in JupyterLab
  python lab.py test         set up what is missing, then run the tests (two at a time; 35 minutes on two cores)

and three helpers:

  python lab.py setup        only set up (everything goes into a folder .venv beside this file)
  python lab.py reset 02     a fresh copy of notebook 02; yours is kept beside it
  python lab.py --help       this text

JupyterLab opens in my/, your working copies of notebooks/, with the glossary, the data cards and, in a folder of
their own, the solutions. What you change there is never overwritten.
--cpu with any of them takes PyTorch's CPU builds (Linux; a fifth of the download). The choice is
remembered; --no-cpu goes back. Further arguments go to JupyterLab or pytest:
  python lab.py --port 9000             python lab.py test tests/test_lab.py -x
"""

# ruff: noqa: UP031, UP032, UP036
# Python 2 must be able to read this file to the end, or its users would see a SyntaxError instead of
# what to do: so no f-strings, no annotations, no keyword-only arguments here.
import errno
import os
import re
import socket
import sys

if sys.version_info < (3, 6):
    sys.exit("This is Python %d.%d; the course needs Python 3.11 to 3.14. Try: python3 lab.py" % sys.version_info[:2])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "tools"))
from lab_environment import setup  # noqa: E402
from lab_my import copy_course, course_files, course_notebooks, make_folder, reset, tell_outdated  # noqa: E402
from lab_system import Problem, guarded, path, relaunch, run, say, suits, venv_python, write_whole  # noqa: E402
from lab_tests import run_all  # noqa: E402

COMMANDS = ("lab", "test", "setup", "reset")
# What JupyterLab takes as given where the learner has chosen nothing: it asks for no news, which need a network.
SETTINGS = b"""{
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}
}
"""


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


def settle_jupyterlab():
    """Settings of this .venv's JupyterLab; the learner's own, in the Settings menu, win over them."""
    folder = path(".venv", "share", "jupyter", "lab", "settings")
    os.makedirs(folder, exist_ok=True)
    if not os.path.lexists(os.path.join(folder, "overrides.json")):
        write_whole(os.path.join(folder, "overrides.json"), SETTINGS)


def first_notebook(arguments):
    """What JupyterLab opens where the user has named nothing -> options; in the address that it prints, too"""
    chosen = arguments and not arguments[0].startswith("-")  # a file, or a command of JupyterLab's
    chosen = chosen or any(os.path.exists(path("my", word)) or re.search("dir|url", word) for word in arguments)
    return [] if chosen else ["--LabApp.default_url=/lab/tree/" + name for name in course_notebooks()[:1]]


def as_root(arguments):
    """JupyterLab does not start for root unless it is allowed to; an ordinary user is asked nothing -> options"""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or re.search("allow[-_]root", " ".join(arguments)):
        return []
    say(
        "You are root, as in most containers. JupyterLab wants that to be a choice, since whoever has its token can\n"
        "do all that root can. It listens on this machine only (unless --ip says otherwise), so it is started with\n"
        "--allow-root. On a machine that others use, log in as an ordinary user instead."
    )
    return ["--allow-root"]


def lab(arguments):
    check_port(arguments)
    tell_outdated(copy_course())
    settle_jupyterlab()
    arguments = arguments + as_root(arguments) + first_notebook(arguments)
    say("Opening JupyterLab in my/ (stop it with Ctrl-C here).")
    return run([venv_python(), "-m", "jupyterlab"] + arguments, path("my"), ctrl_c_ends=False)


def test(arguments):
    if not arguments and (os.cpu_count() or 1) > 1:
        return run_all()
    return run([venv_python(), "-m", "pytest"] + arguments, path(), ctrl_c_ends=False)


def split(arguments):
    """-> (command, cpu: True, False or None, what is passed on)"""
    cpu = None
    for word in arguments:
        cpu = {"--cpu": True, "--no-cpu": False}.get(word, cpu)
    rest = [word for word in arguments if word not in ("--cpu", "--no-cpu")]
    helps = ("-h", "--help", "help")
    if rest and (rest[0] in helps or (rest[0] in ("setup", "reset") and set(rest[1:]) & set(helps))):
        return "help", cpu, []
    if rest and rest[0] in COMMANDS:
        return rest[0], cpu, rest[1:]
    if rest and rest[0][:1] != "-" and rest[0] not in course_files() and not os.path.exists(path("my", rest[0])):
        raise Problem(
            "There is no command %r, and no file of that name in my/, where JupyterLab opens; see: "
            "python lab.py --help" % rest[0]
        )
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
    make_folder("my")
    whole = command == "setup"  # every file is looked for, the packages are imported, and nothing is missing at the end
    setup(cpu, retry=whole, offline_ok=not whole, how="imports" if whole else "quick")
    if whole:
        tell_outdated(copy_course())
        say("Everything is there. Start with: python lab.py")
        return 0
    return {"lab": lab, "test": test}[command](rest)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
