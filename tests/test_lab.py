"""lab.py as a learner meets it: commands, arguments, working copies."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import errno
import socket
import subprocess
import sys

import pytest
from lab_course import HERE, course, modules  # noqa: F401

# ---------------------------------------------------------------- working copies


def my(course, name="02_cut.ipynb"):
    return course.root / "my" / name


def test_copies_are_made_once_and_never_overwritten(course):
    assert course.lab.copy_notebooks() == []
    assert my(course).read_bytes() == b"course 2"
    my(course).write_bytes(b"answers")
    my(course, "own.ipynb").write_bytes(b"own")
    assert course.lab.copy_notebooks() == []  # the course has nothing newer
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.lab.copy_notebooks() == course.lab.copy_notebooks() == ["02_cut.ipynb"]
    assert my(course).read_bytes() == b"answers" and my(course, "own.ipynb").read_bytes() == b"own"


def test_an_untouched_copy_is_renewed(course):
    course.lab.copy_notebooks()
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.lab.copy_notebooks() == [] and my(course).read_bytes() == b"newer"


@pytest.mark.parametrize("record", [None, "not json", "[]"])
def test_without_the_record_a_copy_counts_as_the_learners(course, record):
    course.lab.copy_notebooks()
    my(course, ".copies.json").unlink()
    if record:
        my(course, ".copies.json").write_text(record)
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.lab.copy_notebooks() == ["02_cut.ipynb"] and my(course).read_bytes() == b"course 2"


def test_an_interrupted_write_leaves_the_old_file(course, monkeypatch):
    course.lab.copy_notebooks()
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    monkeypatch.setattr(course.system.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        course.lab.copy_notebooks()
    assert my(course).read_bytes() == b"course 2"


def test_reset_keeps_every_old_one(course, capsys):
    course.lab.copy_notebooks()
    for number in range(1, 4):
        my(course).write_bytes(b"answers %d" % number)
        assert course.lab.main(["reset", "2"]) == 0
        assert my(course).read_bytes() == b"course 2"
        assert f"my/02_cut-old-{number}.ipynb" in capsys.readouterr().out
    assert [my(course, f"02_cut-old-{n}.ipynb").read_bytes() for n in (1, 2, 3)] == [
        b"answers %d" % n for n in (1, 2, 3)
    ]


def test_reset_of_an_unchanged_copy_adds_nothing(course):
    for _ in range(2):
        assert course.lab.main(["reset", "02_cut", "03_loss.ipynb"]) == 0
    assert sorted(p.name for p in (course.root / "my").glob("*.ipynb")) == ["02_cut.ipynb", "03_loss.ipynb"]


@pytest.mark.parametrize("words", [[], ["7"], ["cut"], ["0"]])
def test_reset_names_the_notebooks_when_it_has_none_of_that_name(course, words):
    with pytest.raises(course.system.Problem, match="reset 02" if not words else "02_cut, 03_loss"):
        course.lab.main(["reset", *words])


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], ("lab", None, [])),
        (["--cpu"], ("lab", True, [])),
        (["test", "-k", "a b", "--cpu", "-x"], ("test", True, ["-k", "a b", "-x"])),
        (["--no-cpu", "setup"], ("setup", False, [])),
        (["--port", "9001", "--no-browser"], ("lab", None, ["--port", "9001", "--no-browser"])),
        (["lab", "--help"], ("lab", None, ["--help"])),
        (["reset", "02"], ("reset", None, ["02"])),
        (["--help"], ("help", None, [])),
        (["02_cut.ipynb"], ("lab", None, ["02_cut.ipynb"])),
    ],
)
def test_arguments_find_their_program(course, arguments, expected):
    assert course.lab.split(arguments) == expected


def test_a_mistyped_command_is_said(course):
    with pytest.raises(course.system.Problem, match="no command 'tset'"):
        course.lab.main(["tset"])


def test_lab_opens_jupyterlab_in_the_working_copies(course, capsys):
    course.environment.setup()
    my(course).write_bytes(b"answers of before")
    assert course.lab.main(["--no-browser"]) == 0
    assert course.commands[-1] == [course.system.venv_python(), "-m", "jupyterlab", "--no-browser"]
    assert course.folders[-1] == course.root / "my"
    assert "python lab.py reset 02" in capsys.readouterr().out


def test_test_runs_pytest_of_the_venv(course):
    course.environment.setup()
    course.lab.main(["test", "tests/test_lab.py", "-x"])
    assert course.commands[-1] == [course.system.venv_python(), "-m", "pytest", "tests/test_lab.py", "-x"]
    assert course.folders[-1] == course.root


def test_help_needs_no_environment(course, capsys):
    assert course.lab.main(["--help"]) == 0
    assert "python lab.py test" in capsys.readouterr().out and course.commands == []


@pytest.mark.parametrize(
    "words", [["--port={}"], ["--port", "{}"], ["--ServerApp.port={}"], ["-y", "--LabApp.port", "{}"]]
)
def test_a_fixed_port_that_is_taken_is_said(course, words):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(course.system.Problem, match=f"Port {taken} is taken.*next free port"):
            course.lab.lab([word.format(taken) for word in words])
    assert course.commands == []
    course.lab.check_port([word.format(taken) for word in words])


@pytest.mark.parametrize("words", [[], ["--port=0"], ["--no-browser"], ["--port_retries=3"], ["--port", "none"]])
def test_without_a_fixed_port_jupyterlab_chooses(course, words):
    course.lab.check_port(words)


def test_the_script_says_its_help_as_a_program():
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(HERE / "lab.py"), "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "python lab.py reset 02" in done.stdout
