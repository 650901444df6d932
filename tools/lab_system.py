"""Behind lab.py: messages, programs, files, and a Python that suits.

Standard library only, and every Python from 3.6 must be able to import it, so that lab.py can say what to do there.
"""

import contextlib
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 14)  # tests/test_environment.py compares them with pyproject.toml
MODULES = ["torch", "torchvision", "jupyterlab", "ipykernel", "pytest", "sftlib"]
LONGEST_ROOT = 90  # letters of the course's folder on Windows; in .venv the packages have names of up to 164
AGAIN = "Then run the same command again; what has been downloaded is kept."
PROBE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "lab_probe.py")


class Problem(Exception):
    """Something the user can mend: shown as a plain paragraph, without a traceback."""


def path(*parts):
    return os.path.join(ROOT, *parts)


def say(text):
    print(text, flush=True)


def guarded(main, arguments):
    """Run main(arguments) -> exit code; what the user can mend is told in a paragraph."""
    if hasattr(sys.stdout, "reconfigure"):  # a Windows console may lack a letter of a folder's name
        sys.stdout.reconfigure(errors="replace")
    try:
        return main(arguments)
    except Problem as problem:
        text = str(problem)
    except KeyboardInterrupt:
        say("\nInterrupted. The same command goes on from here.")
        return 130
    except OSError as error:
        remedy = {
            errno.ENOSPC: "The disk is full. Free some space. " + AGAIN,
            errno.EROFS: "This folder cannot be written. Move the course to one that is yours.",
            errno.EACCES: "There is no permission to write there: move the course to a folder of your own, and close "
            "programs that use .venv (JupyterLab, an activated terminal).",
        }
        text = f"{error}. {remedy.get(errno.EACCES if error.errno == errno.EPERM else error.errno, '')}"
    print("\n" + textwrap.fill("lab.py: " + text, 100, break_long_words=False, break_on_hyphens=False), file=sys.stderr)
    return 1


# ---------------------------------------------------------------- running programs


def run(command, cwd, ctrl_c_ends=True):
    """Run a command in sight, to its end -> exit code. Ctrl-C reaches the child by itself, and the child decides."""
    told, children = [], []

    def note(number, _):  # raises nothing: an exception between the child's end and its exit code would lose the code
        told.append(number)
        for child in children if number == signal.SIGTERM else ():
            child.terminate()

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as of a job in the background; the child's too
    heard = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        # close_fds: on POSIX an installer inherits the lock of `one_at_a_time`, so that it holds even when
        # this process is killed and the installer goes on alone.
        children.append(
            subprocess.Popen(command, cwd=cwd, close_fds=os.name == "nt", env=dict(os.environ, PYTHONUTF8="1"))
        )
        code = children[0].wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signal.SIGTERM in told:
        raise SystemExit(143)
    if signal.SIGINT in told and ctrl_c_ends:
        raise KeyboardInterrupt
    return code if code >= 0 else 128 - code


def output_of(command, limit_s=120, **environment):
    """What a command prints, or None when it cannot be run, fails, or takes longer than the limit in seconds."""
    try:
        env = dict(os.environ, **environment)
        text = subprocess.check_output(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, timeout=limit_s
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return text.decode("utf-8", "replace").strip()


# ---------------------------------------------------------------- which Python


def venv_python():
    return path(".venv", "Scripts", "python.exe") if os.name == "nt" else path(".venv", "bin", "python")


def find_uv():
    homes = [os.path.join(os.path.expanduser("~"), folder, "bin") for folder in (".local", ".cargo")]
    return shutil.which("uv") or shutil.which("uv", path=os.pathsep.join(homes))


def suits(version):
    return OLDEST <= tuple(version[:2]) <= NEWEST


def weights():
    """The packages that are only read -> "name==version" of each, as weights.txt has them."""
    with open(path("weights.txt"), encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    return [line for line in lines if line]


def probe(python, how="quick", wanted=()):
    """What an environment is, or None: its Python does not run, or does not suit.

    -> {"python": "3.12", "prefix": folder, "missing": of the wanted modules and packages, "damaged": [package, file]
    and "failing": [module, why]}; "damaged" is filled with how="files", "failing" too with how="imports".
    """
    try:
        # a slow disk may take minutes to give all files
        found = json.loads(output_of([python, "-I", "-X", "utf8", PROBE, how] + list(wanted), limit_s=1800) or "")
    except ValueError:
        return None
    return found if suits([int(n) for n in found["python"].split(".")]) else None


def candidates():
    """Pythons in the place of one that does not suit: our own, those on the PATH, those uv has or can bring."""
    yield venv_python()
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        yield shutil.which(f"python3.{minor}")
        if os.name == "nt":
            yield output_of(["py", f"-3.{minor}", "-X", "utf8", "-c", "import sys; print(sys.executable)"])
    uv, asked = find_uv() or uv_in(path(".uv")), f">=3.{OLDEST[1]},<3.{NEWEST[1] + 1}"
    if uv:
        yield output_of([uv, "python", "find", "--system", asked])
        say("No Python here suits; asking uv for one.")
        run([uv, "python", "install", "3.13"], ROOT)
        yield output_of([uv, "python", "find", "--system", asked])


def relaunch(script, arguments):
    """Run the script again with a Python that suits -> its exit code."""
    found = f"This is Python {platform.python_version()} ({sys.executable}); the course needs Python 3.11 to 3.14"
    for python in candidates():
        if python and probe(python):
            say(f"{found}: going on with {python}")
            return run([python, script] + arguments, os.getcwd(), ctrl_c_ends=False)
    raise Problem(
        f"{found}, and none was found on this machine. Install one from https://www.python.org/downloads/ (Ubuntu, "
        "Debian: sudo apt install python3 python3-venv), or install uv (https://docs.astral.sh/uv/), which brings its "
        "own. Then run lab.py with it, for example: python3.13 lab.py"
    )


def uv_in(folder):
    """uv by the pip of a Python that does not suit the course -> path of the program, or None."""
    program = os.path.join(folder, "bin", "uv.exe" if os.name == "nt" else "uv")
    if not os.path.exists(program) and output_of([sys.executable, "-m", "pip", "--version"]):
        say("No Python here suits; fetching uv, which can bring one.")
        run([sys.executable, "-m", "pip", "install", "--target", folder, "uv"], ROOT)
        if os.path.isdir(folder):
            write_whole(os.path.join(folder, ".gitignore"), b"*\n")
    return program if os.path.exists(program) else None


def check_machine():
    """What PyTorch has no builds for, or cannot be unpacked to: say it before anything is downloaded."""
    if sys.maxsize < 2**32:
        raise Problem(f"This Python ({sys.executable}) is a 32-bit one; PyTorch needs a 64-bit Python.")
    if (sys.platform, platform.machine()) in (("darwin", "x86_64"), ("win32", "ARM64")):
        raise Problem(
            f"PyTorch has no builds for this Python ({sys.executable}, {platform.machine()}). A Mac with Apple silicon "
            "needs a Python for arm64, Windows on ARM one for x64. On an Intel Mac use Colab or Binder: see README.md."
        )
    macos = platform.mac_ver()[0]
    if macos and int(macos.split(".")[0]) < 14:
        raise Problem(f"PyTorch needs macOS 14 or newer, and this is {macos}. Update it, or use Colab: see README.md.")
    if sys.platform == "win32" and len(path()) > LONGEST_ROOT and not long_paths():
        raise Problem(
            f"The name of this folder has {len(path())} letters ({path()}). Windows takes names of 259 at most, and "
            f"the packages need {259 - LONGEST_ROOT} below it. Move the course to a folder with a short name, for "
            "example C:\\course, or allow long paths in Windows (https://docs.python.org/3/using/windows.html)."
        )


def long_paths():
    """Whether Windows has been told to take names of files longer than 259 letters."""
    try:
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
    except (ImportError, OSError):
        return False


# ---------------------------------------------------------------- files that survive an interruption


def write_whole(name, data):
    """Replace a file at once: whoever is killed in between leaves the old one."""
    with open(name + ".new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name + ".new", name)


def read_json(name):
    try:
        with open(name, "rb") as file:
            content = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(name, content):
    write_whole(name, json.dumps(content, indent=1, sort_keys=True).encode("utf-8"))


def locked(file):
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            os.set_inheritable(file.fileno(), True)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # any other: a disk without locks
    return True


@contextlib.contextmanager
def one_at_a_time():
    """A second setup of this folder waits; the system frees the lock when its holders have ended."""
    os.makedirs(path("my"), exist_ok=True)
    with open(path("my", ".setup.lock"), "ab") as file:
        waited = False
        while not locked(file):
            if not waited:
                say("Another setup of this folder is running; waiting for it to end.")
            waited = True
            time.sleep(0.2)
        yield
