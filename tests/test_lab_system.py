"""Behind lab.py: the Python that is taken, programs that are run and interrupted, errors of the system."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import errno
import json
import os
import signal
import sys
import sysconfig
from pathlib import Path

import pytest
from lab_course import HERE, course, modules  # noqa: F401


@pytest.mark.parametrize("version, fits", [((3, 10, 13), 0), ((3, 11, 0), 1), ((3, 14, 2), 1), ((3, 15, 0), 0)])
def test_python_3_11_to_3_14_suits(course, version, fits):
    assert course.system.suits(version) == bool(fits)


def test_no_suitable_python_is_said_with_a_remedy(course, monkeypatch):
    monkeypatch.setattr(course.system, "candidates", lambda: iter([None, "/nowhere/python3.12"]))
    with pytest.raises(course.system.Problem, match=r"needs Python 3.11 to 3.14.*Install one.*uv"):
        course.system.relaunch("lab.py", [])


def test_an_old_python_hands_over_to_a_suitable_one_with_all_arguments(course, monkeypatch):
    ran = []
    monkeypatch.setattr(course.lab, "suits", lambda version: False)
    monkeypatch.setattr(course.system, "candidates", lambda: iter(["/broken", "/good"]))
    monkeypatch.setattr(course.system, "probe", lambda python: {"python": "3.13"} if python == "/good" else None)
    monkeypatch.setattr(course.system, "run", lambda command, cwd, ctrl_c_ends: ran.append(command) or 5)
    assert course.lab.main(["test", "--cpu", "-k", "x y"]) == 5
    assert ran == [["/good", str(course.root / "lab.py"), "test", "--cpu", "-k", "x y"]]


@pytest.mark.parametrize("version, fits", [("3.10", 0), ("3.11", 1), ("3.15", 0)])
def test_a_python_is_asked_for_its_version(modules, monkeypatch, version, fits):
    monkeypatch.setattr(modules[2], "output_of", lambda command, **_: json.dumps({"python": version}))
    assert bool(modules[2].probe("python")) == bool(fits)


def test_uv_brings_a_python_where_none_suits(course, monkeypatch):
    answers = iter([None, "/uv/python3.13"])
    ran = []
    monkeypatch.setattr(course.system.shutil, "which", lambda name, path=None: "uv" if name == "uv" else None)
    monkeypatch.setattr(course.system, "output_of", lambda command, **_: next(answers))
    monkeypatch.setattr(course.system, "run", lambda command, cwd: ran.append(command) or 0)
    assert list(course.system.candidates())[-1] == "/uv/python3.13"
    assert ran == [["uv", "python", "install", "3.13"]]


def test_lab_py_holds_nothing_that_python_2_or_3_6_cannot_read():
    import ast

    tree = ast.parse((HERE / "lab.py").read_text(encoding="ascii"), feature_version=(3, 6))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.YieldFrom)
    for node in ast.walk(tree):
        assert not isinstance(node, newer), ast.dump(node)
        assert not (isinstance(node, ast.Raise) and node.cause)
        if isinstance(node, ast.arguments):
            assert not node.kwonlyargs and not any(a.annotation for a in node.args)
        if isinstance(node, ast.List | ast.Tuple):
            assert not any(isinstance(e, ast.Starred) for e in node.elts)
    for name in (
        "lab_system.py",
        "lab_environment.py",
        "lab_install.py",
        "lab_keep.py",
        "lab_my.py",
        "lab_probe.py",
        "lab_tests.py",
    ):
        ast.parse((HERE / "tools" / name).read_text(encoding="utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("system, machine", [("darwin", "x86_64"), ("win32", "ARM64")])
def test_a_processor_without_pytorch_is_said_before_any_download(modules, monkeypatch, system, machine):
    monkeypatch.setattr(modules[2].sys, "platform", system)
    monkeypatch.setattr(modules[2].platform, "machine", lambda: machine)
    with pytest.raises(modules[2].Problem, match="no builds for this Python.*README"):
        modules[2].check_machine()


def test_a_macos_without_pytorch_is_said_before_any_download(modules, monkeypatch):
    monkeypatch.setattr(modules[2].platform, "mac_ver", lambda: ("13.7.1", ("", "", ""), "arm64"))
    with pytest.raises(modules[2].Problem, match="needs macOS 14 or newer, and this is 13.7.1"):
        modules[2].check_machine()
    monkeypatch.setattr(modules[2].platform, "mac_ver", lambda: ("26.1", ("", "", ""), "arm64"))
    modules[2].check_machine()


def test_a_folder_too_deep_for_windows_is_said_before_any_download(modules, monkeypatch):
    system = modules[2]
    monkeypatch.setattr(system.sys, "platform", "win32")
    monkeypatch.setattr(system, "ROOT", "C:\\" + 88 * "x")
    with pytest.raises(system.Problem, match="has 91 letters.*need 169 below it.*C:.course, or allow long paths"):
        system.check_machine()
    monkeypatch.setattr(system, "long_paths", lambda: True)
    system.check_machine()
    monkeypatch.undo()
    system.check_machine()


def test_the_packages_fit_below_the_longest_folder_that_windows_takes(modules):
    """Measured where they are installed; what only Linux has is left out."""
    packages = Path(sysconfig.get_path("purelib"))
    names = (str(p.relative_to(packages)) for p in packages.rglob("*") if not p.parts[-1].endswith(".pyc"))
    longest = max((n for n in names if not n.startswith(("nvidia", "triton"))), key=len)
    assert modules[2].LONGEST_ROOT + len(r"\.venv\Lib\site-packages\\") + len(longest) < 259, longest


@pytest.mark.parametrize(
    "number, words",
    [(errno.ENOSPC, "Free some space"), (errno.EACCES, "folder of your own"), (errno.EROFS, "cannot be written")],
)
def test_errors_of_the_system_are_a_paragraph(course, capsys, number, words):
    def fail(arguments):
        raise OSError(number, os.strerror(number), "my/02_cut.ipynb")

    assert course.system.guarded(fail, []) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert words in shown and "02_cut.ipynb" in shown and "Traceback" not in shown


def test_an_interruption_is_said_without_a_traceback(course, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert course.system.guarded(interrupted, []) == 130 and "goes on from here" in capsys.readouterr().out


def child(code):
    return [sys.executable, "-I", "-S", "-c", code]


def test_exit_codes_pass_through(modules, tmp_path):
    assert modules[2].run(child("raise SystemExit(7)"), str(tmp_path)) == 7


@pytest.fixture
def in_front():
    """Ctrl+C as in a terminal; a job in the background ignores it"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_waits_for_the_child_and_then_ends_an_installer_but_not_a_server(modules, tmp_path, in_front):
    handles = "import signal, os; signal.signal(signal.SIGINT, lambda *_: os._exit(3)); os.kill(os.getppid(), 2); "
    handles += "os.kill(os.getpid(), 2)"
    assert modules[2].run(child(handles), str(tmp_path), ctrl_c_ends=False) == 3
    with pytest.raises(KeyboardInterrupt):
        modules[2].run(child(handles), str(tmp_path))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_between_a_childs_end_and_its_exit_code_loses_no_code(modules, tmp_path, in_front, monkeypatch):
    waitpid, pressed = os.waitpid, []

    def late(*of):
        found = waitpid(*of)
        pressed.append(found)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(os, "waitpid", late)
    assert modules[2].run(child("raise SystemExit(7)"), str(tmp_path), ctrl_c_ends=False) == 7
    assert pressed


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("ignores", [True, False])
def test_a_child_ignores_ctrl_c_where_its_parent_does(ignores, modules, tmp_path, in_front):
    if ignores:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = "import signal; raise SystemExit(5 if signal.getsignal(2) == signal.SIG_IGN else 6)"
    assert modules[2].run(child(code), str(tmp_path)) == (5 if ignores else 6)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_termination_reaches_the_child(modules, tmp_path):
    code = "import os, signal; signal.alarm(9); signal.signal(15, lambda *_: open('told', 'w') and os._exit(0)); "
    code += "os.kill(os.getppid(), 15); signal.pause()"
    with pytest.raises(SystemExit) as ended:
        modules[2].run(child(code), str(tmp_path))
    assert ended.value.code == 143 and (tmp_path / "told").exists()
