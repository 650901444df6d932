"""lab.py as a learner meets it: commands, arguments, working copies."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import errno
import json
import posixpath
import re
import shutil
import socket
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from helpers import said
from lab_course import HERE, course, modules  # noqa: F401

# ---------------------------------------------------------------- working copies


def my(course, name="02_cut.ipynb"):
    return course.root / "my" / name


def test_copies_are_made_once_and_never_overwritten(course):
    assert course.my.copy_course() == []
    assert my(course).read_bytes() == b"course 2"
    my(course).write_bytes(b"answers")
    my(course, "own.ipynb").write_bytes(b"own")
    assert course.my.copy_course() == []  # the course has nothing newer
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.my.copy_course() == course.my.copy_course() == ["02_cut.ipynb"]
    assert my(course).read_bytes() == b"answers" and my(course, "own.ipynb").read_bytes() == b"own"


def test_an_untouched_copy_is_renewed(course):
    course.my.copy_course()
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.my.copy_course() == [] and my(course).read_bytes() == b"newer"


@pytest.mark.parametrize("record", [None, "not json", "[]"])
def test_without_the_record_a_copy_counts_as_the_learners(course, record):
    course.my.copy_course()
    my(course, ".copies.json").unlink()
    if record:
        my(course, ".copies.json").write_text(record)
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    assert course.my.copy_course() == ["02_cut.ipynb"] and my(course).read_bytes() == b"course 2"


def test_an_interrupted_write_leaves_the_old_file(course, monkeypatch):
    course.my.copy_course()
    (course.root / "notebooks" / "02_cut.ipynb").write_bytes(b"newer")
    monkeypatch.setattr(course.system.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        course.my.copy_course()
    assert my(course).read_bytes() == b"course 2"


def test_reset_keeps_every_old_one(course, capsys):
    course.my.copy_course()
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


def test_reset_by_number_leaves_the_deeper_notebook_alone(course, capsys):
    (course.root / "notebooks" / "02_cut_deeper.ipynb").write_bytes(b"deeper")
    course.my.copy_course()
    for word, changed in (("2", "02_cut"), ("02_cut", "02_cut"), ("02_cut_deeper", "02_cut_deeper")):
        for name in ("02_cut", "02_cut_deeper"):
            my(course, f"{name}.ipynb").write_bytes(b"answers")
        assert course.lab.main(["reset", word]) == 0
        left = [n for n in ("02_cut", "02_cut_deeper") if my(course, f"{n}.ipynb").read_bytes() != b"answers"]
        assert left == [changed]
    capsys.readouterr()
    course.my.tell_outdated(["02_cut_deeper.ipynb", "02_cut.ipynb"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("lab.py reset 02_cut_deeper") and told[1].endswith("lab.py reset 02")


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
        (["reset", "--help"], ("help", None, [])),
        (["setup", "-h", "--cpu"], ("help", True, [])),
        (["test", "--help"], ("test", None, ["--help"])),
        (["02_cut.ipynb"], ("lab", None, ["02_cut.ipynb"])),
    ],
)
def test_arguments_find_their_program(course, arguments, expected):
    assert course.lab.split(arguments) == expected


@pytest.mark.parametrize("word", ["tset", "Setup", "set-up", "02", "notebooks/02_cut.ipynb"])
def test_a_mistyped_command_is_said_before_anything_is_installed(course, word):
    with pytest.raises(course.system.Problem, match=f"no command '{word}'.*no file of that name in my/"):
        course.lab.main([word])
    assert course.commands == []


def test_a_file_of_the_learners_own_is_opened(course):
    course.lab.main([])
    my(course, "own-notes.ipynb").write_bytes(b"")
    assert course.lab.split(["own-notes.ipynb"]) == ("lab", None, ["own-notes.ipynb"])


def test_lab_opens_jupyterlab_in_the_working_copies(course, capsys):
    course.environment.setup()
    my(course).write_bytes(b"answers of before")
    assert course.lab.main(["--no-browser"]) == 0
    program = [course.system.venv_python(), "-m", "jupyterlab", "--no-browser"]
    assert course.commands[-1] == [*program, "--LabApp.default_url=/lab/tree/02_cut.ipynb"]
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
    assert done.returncode == 0 and "python lab.py reset 02" in done.stdout, said(done)


# ---------------------------------------------------------------- what my/ holds


def test_my_holds_what_the_notebooks_point_to(course):
    for name in ("notebooks/GLOSSARY.md", "notebooks/solutions/02_cut.ipynb", "data/README.md", "data/results/a.csv"):
        (course.root / name).parent.mkdir(parents=True, exist_ok=True)
        (course.root / name).write_text(name)
    assert course.my.copy_course() == []
    held = {str(p.relative_to(course.root / "my").as_posix()) for p in (course.root / "my").rglob("*") if p.is_file()}
    expected = {"GLOSSARY.md", "solutions/02_cut.ipynb", "data/README.md", "data/results/a.csv", ".copies.json"}
    assert held == expected | {"02_cut.ipynb", "03_loss.ipynb"}
    (course.root / "my" / "solutions" / "02_cut.ipynb").write_text("tried")
    (course.root / "notebooks" / "solutions" / "02_cut.ipynb").write_text("newer")
    assert course.my.copy_course() == ["solutions/02_cut.ipynb"]
    assert (course.root / "my" / "solutions" / "02_cut.ipynb").read_text() == "tried"


def links(notebook):
    """Where the text of a notebook points to within the course."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    for cell in cells:
        for found in re.findall(r'\]\(([^)\s]+)[^)]*\)|(?:src|href)="([^"]+)"', "".join(cell["source"])):
            target = "".join(found).split("#")[0]
            if target and not re.match(r"[a-z]+:|#|//", target):
                yield target


def named_places(notebook):
    """Files and folders of the course that the text of a notebook names in `code`."""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    for cell in cells:
        yield from re.findall(r"`((?:data|solutions)/[\w./]*|[A-Z]+\.md)`", "".join(cell["source"]))


@pytest.fixture(scope="module")
def my_copies(tmp_path_factory, modules):
    """my/ as a learner gets it, in a course of its own -> (folder, names of the notebooks in it)"""
    root = tmp_path_factory.mktemp("course")
    for name in ("notebooks", "data"):
        shutil.copytree(HERE / name, root / name, ignore=shutil.ignore_patterns("src", "cache", "__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules[2], "ROOT", str(root))
        assert modules[5].copy_course() == []
    return root / "my"


NOTEBOOKS = sorted((HERE / "notebooks").glob("*.ipynb")) + sorted((HERE / "notebooks" / "solutions").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.relative_to(HERE / "notebooks").as_posix())
def test_every_link_of_a_notebook_resolves_in_my(my_copies, notebook):
    """As files, and as JupyterLab does it, whose root is my/: what leads above the root begins at the root."""
    copy = my_copies / notebook.relative_to(HERE / "notebooks")
    assert copy.read_bytes() == notebook.read_bytes()
    here = PurePosixPath(copy.relative_to(my_copies).parent.as_posix())
    for target in {*links(notebook), *named_places(notebook)}:
        place = posixpath.normpath(posixpath.join("/", here, target)).lstrip("/")
        assert (my_copies / place).exists() or (my_copies / target).exists(), f"{target} is not in my/"


def test_links_are_found(tmp_path):
    text = '[a](GLOSSARY.md#f "title") ![b](../data/x.png) <a href="solutions/02.ipynb"> [web](https://a.b) [c](#here)'
    cells = [{"cell_type": "markdown", "source": [text, "\n`data/results/a.csv` `GLOSSARY.md` `x.md`"]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [*cells, {"cell_type": "code", "source": ["[d](e.md)"]}]}))
    assert list(links(tmp_path / "a.ipynb")) == ["GLOSSARY.md", "../data/x.png", "solutions/02.ipynb"]
    assert list(named_places(tmp_path / "a.ipynb")) == ["data/results/a.csv", "GLOSSARY.md"]


def test_my_that_is_a_file_is_said(course):
    (course.root / "my").write_text("mine")
    for arguments in ([], ["setup"], ["test"], ["reset", "02"]):
        with pytest.raises(course.system.Problem, match="my is not a folder.*Rename"):
            course.lab.main(arguments)
    assert (course.root / "my").read_text() == "mine" and course.commands == []


@pytest.mark.parametrize("name", ["02_cut.ipynb", "solutions"])
def test_a_folder_or_file_in_the_place_of_the_other_is_said(course, name):
    (course.root / "notebooks" / "solutions").mkdir()
    (course.root / "notebooks" / "solutions" / "02_cut.ipynb").write_text("solved")
    (course.root / "my").mkdir()
    make = my(course, name).mkdir if name.endswith("ipynb") else my(course, name).touch
    make()
    with pytest.raises(course.system.Problem, match=f"my/{name} is (not )?a folder.*Rename"):
        course.lab.main([])
    with pytest.raises(course.system.Problem, match=f"my/{name} is (not )?a folder.*Rename"):
        course.lab.main(["reset", "02"])


# ---------------------------------------------------------------- how JupyterLab is started


@pytest.mark.parametrize(
    "words, opens",
    [
        ([], 1),
        (["--no-browser"], 1),
        (["--port", "9001"], 1),
        (["03_loss.ipynb"], 0),
        (["list"], 0),
        (["--ServerApp.root_dir=/"], 0),
    ],
)
def test_the_first_notebook_opens_where_nothing_is_named(course, words, opens):
    course.my.copy_course()
    assert course.lab.first_notebook(words) == ["--LabApp.default_url=/lab/tree/02_cut.ipynb"] * opens


def test_root_is_told_and_jupyterlab_starts(course, monkeypatch, capsys):
    monkeypatch.setattr(course.lab.os, "geteuid", lambda: 0, raising=False)
    course.lab.main(["--no-browser"])
    assert "--allow-root" in course.commands[-1] and "You are root" in capsys.readouterr().out
    course.lab.main(["--allow-root"])
    assert course.commands[-1].count("--allow-root") == 1 and "You are root" not in capsys.readouterr().out
    monkeypatch.setattr(course.lab.os, "geteuid", lambda: 1000, raising=False)
    course.lab.main([])
    assert "--allow-root" not in course.commands[-1] and "You are root" not in capsys.readouterr().out


def test_jupyterlab_asks_for_no_news_and_a_learners_own_file_stays(course):
    course.lab.main([])
    file = course.root / ".venv" / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    given = json.loads(file.read_text())["@jupyterlab/apputils-extension:notification"]
    assert given == {"fetchNews": "false", "checkForUpdates": False}
    file.write_text("{}")
    course.lab.main([])
    assert file.read_text() == "{}"
