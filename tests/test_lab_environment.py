"""The .venv behind lab.py: when it is made, updated, made anew, and what is said when that fails."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import itertools
import json
import os
import sys
import urllib.error
from pathlib import Path

import pytest
from lab_course import course, modules, read_stamp  # noqa: F401

# ---------------------------------------------------------------- the stamp: when is what done again


def test_first_setup_builds_and_the_second_runs_nothing(course):
    course.environment.setup()
    assert [c[1:3] for c in course.commands] == [["venv", "--quiet"], ["pip", "install"]]
    assert course.commands[-1][-4:] == ["--constraint", "constraints.txt", "--editable", ".[lab,test]"]
    assert read_stamp(course)["state"] == "done"
    course.commands.clear()
    course.environment.setup()
    assert course.commands == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_input_installs_again_in_place(course, name):
    course.environment.setup()
    course.commands.clear()
    (course.root / name).write_text("changed\n")
    assert course.environment.plan(None)[0] == "update"
    course.environment.setup()
    assert [c[1] for c in course.commands] == ["pip"]
    assert course.environment.plan(None)[0] == "ready"


def test_line_ends_are_no_change(course):
    course.environment.setup()
    (course.root / "constraints.txt").write_bytes(b"torch==2.15.0\r\n")
    assert course.environment.plan(None)[0] == "ready"


def damage_python(course):
    (course.root / ".venv" / "bin").rmdir()


def damage_module(course):
    course.found["missing"] = ["torch"]


def damage_version(course):
    course.found["python"] = "3.13"


def damage_stamp(course):
    (course.root / ".venv" / "lab-stamp.json").write_text('{"state": "installing"}')


def damage_prefix(course):
    course.found["prefix"] = "/usr"


def damage_place(course):
    stamp = dict(read_stamp(course), root="/elsewhere")
    (course.root / ".venv" / "lab-stamp.json").write_text(json.dumps(stamp))


@pytest.mark.parametrize(
    "damage, words",
    [
        (damage_python, "does not run"),
        (damage_module, "missing|torch"),
        (damage_version, "other Python"),
        (damage_stamp, "interrupted"),
        (damage_prefix, "does not run"),
        (damage_place, "moved"),
    ],
)
def test_a_broken_venv_is_seen_and_made_anew(course, damage, words, capsys):
    course.environment.setup()
    (course.root / ".venv" / "leftover").write_text("")
    damage(course)
    action, _, why = course.environment.plan(None)
    assert action == "build" and any(word in why for word in words.split("|"))
    course.found.update(python="3.12", prefix=str(course.root / ".venv"))
    (course.root / ".venv" / "bin").mkdir(exist_ok=True)
    if damage in (damage_stamp, damage_place):
        course.environment.setup()
        assert not (course.root / ".venv" / "leftover").exists() and read_stamp(course)["state"] == "done"
        assert why in capsys.readouterr().out


def test_a_real_venv_without_its_python_does_not_pass(course, modules, monkeypatch):
    monkeypatch.undo()
    (course.root / ".venv" / "bin").mkdir(parents=True)
    (course.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    assert modules[2].probe(str(course.root / ".venv" / "bin" / "python")) is None
    assert modules[2].probe(sys.executable)["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_venv_of_somebody_else_is_added_to_and_not_deleted(course):
    (course.root / ".venv" / "bin").mkdir(parents=True)
    (course.root / ".venv" / "theirs").write_text("")
    course.environment.setup()
    assert (course.root / ".venv" / "theirs").exists() and [c[1] for c in course.commands] == ["pip"]


def test_a_kill_while_installing_leaves_no_stamp_that_says_done(course, monkeypatch):
    def killed(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        if command[1] == "pip":
            raise KeyboardInterrupt

    monkeypatch.setattr(course.environment, "run", killed)
    for change in ("", "more"):  # in the first setup, and in an update
        with pytest.raises(KeyboardInterrupt):
            (course.root / "constraints.txt").write_text(change)
            course.environment.setup()
        assert read_stamp(course) == {"state": "installing"}
        assert course.environment.plan(None)[0] == "build"


def test_a_half_deleted_venv_lost_its_pyvenv_cfg_first(course, monkeypatch):
    for name in ("aaa", "pyvenv.cfg", "zzz"):
        (course.root / ".venv").mkdir(exist_ok=True)
        (course.root / ".venv" / name).write_text("")
    removed = []
    monkeypatch.setattr(course.environment.os, "remove", lambda name: removed.append(os.path.basename(name)))
    course.environment.clear()
    assert removed[0] == "pyvenv.cfg" and sorted(removed) == ["aaa", "pyvenv.cfg", "zzz"]


def test_a_venv_that_is_a_link_to_another_disk_stays_a_link(course, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("")
    (course.root / ".venv").symlink_to(tmp_path / "disk", target_is_directory=True)
    course.environment.setup()
    assert (course.root / ".venv").is_symlink() and not (tmp_path / "disk" / "old").exists()


def test_a_second_setup_waits_for_the_first(course, monkeypatch, capsys):
    answers = itertools.chain([False, False], itertools.repeat(True))
    monkeypatch.setattr(course.system, "locked", lambda file: next(answers))
    monkeypatch.setattr(course.system.time, "sleep", lambda seconds: None)
    course.environment.setup()
    assert capsys.readouterr().out.count("waiting") == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX lock")
def test_the_lock_is_exclusive_and_inherited_by_installers(course):
    import fcntl

    with course.system.one_at_a_time(), open(course.root / "my" / ".setup.lock") as other:
        assert not course.system.locked(other)
    with open(course.root / "my" / ".setup.lock") as file:
        assert course.system.locked(file) and os.get_inheritable(file.fileno())
        fcntl.flock(file, fcntl.LOCK_UN)


# ---------------------------------------------------------------- CPU builds


def test_cpu_asks_uv_for_cpu_builds_and_is_remembered(course, monkeypatch):
    monkeypatch.setattr(course.environment, "output_of", lambda command, **environment: "")
    course.environment.setup(cpu=True)
    assert course.commands[-1][5:7] == ["--torch-backend", "cpu"]
    assert read_stamp(course)["cpu"] is True
    assert course.environment.plan(None)[0] == course.environment.plan(True)[0] == "ready"
    assert course.environment.plan(False)[0] == "build"  # uv would take CPU builds for as good as the ordinary ones


def test_cpu_without_their_index_is_said_and_takes_the_ordinary_builds(course, monkeypatch, capsys):
    monkeypatch.setattr(course.environment, "output_of", lambda command, **environment: None)
    course.environment.setup(cpu=True)
    assert "cannot be reached; taking the ordinary builds" in capsys.readouterr().out
    assert "--torch-backend" not in course.commands[-1]
    assert course.environment.plan(True)[0] == "ready"  # a start does not try again each time
    assert course.environment.plan(True, retry=True)[0] == "build"  # `setup --cpu` does


def test_cpu_is_no_change_where_the_ordinary_builds_are_cpu_builds(course, monkeypatch, capsys):
    monkeypatch.setattr(course.environment, "LINUX", False)
    course.environment.setup(cpu=True)
    assert "CPU builds already" in capsys.readouterr().out and "--torch-backend" not in course.commands[-1]


# ---------------------------------------------------------------- installers and what goes wrong


def failing(course, monkeypatch, *words):
    """Every command that holds one of the words fails."""

    def run(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        return 1 if any(word in command for word in words) else 0

    monkeypatch.setattr(course.environment, "run", run)


def test_without_uv_pip_brings_it_into_the_venv(course, monkeypatch):
    monkeypatch.setattr(course.environment, "find_uv", lambda: None)
    course.environment.setup()
    assert [c[1:4] for c in course.commands[:2]] == [["-m", "venv", course.commands[0][3]], ["-m", "pip", "install"]]
    assert Path(course.commands[2][0]).parent == Path(course.system.venv_python()).parent
    assert course.commands[2][1:3] == ["pip", "install"]


def test_plain_pip_when_uv_fails(course, monkeypatch, capsys):
    failing(course, monkeypatch, "uv")
    course.environment.setup()
    assert course.commands[-1][1:4] == ["-m", "pip", "install"] and ".[lab,test]" in course.commands[-1]
    assert "pip, which takes longer" in capsys.readouterr().out and read_stamp(course)["state"] == "done"


def test_no_network_at_the_first_install_is_said_at_once(course, monkeypatch):
    failing(course, monkeypatch, "uv")
    monkeypatch.setattr(course.environment, "online", lambda: False)
    with pytest.raises(course.system.Problem, match="pypi.org cannot be reached.*Check the network"):
        course.environment.setup()
    assert len(course.commands) == 1


def test_no_network_at_an_update_goes_on_with_what_is_there(course, monkeypatch, capsys):
    course.environment.setup()
    before = read_stamp(course)
    (course.root / "constraints.txt").write_text("newer\n")
    failing(course, monkeypatch, "uv")
    monkeypatch.setattr(course.environment, "online", lambda: False)
    course.environment.setup()
    assert "Going on with what is installed" in capsys.readouterr().out and read_stamp(course) == before
    with pytest.raises(course.system.Problem, match="pypi.org"):  # `setup` itself has failed
        course.environment.setup(offline_ok=False)


def test_no_network_does_not_cost_a_venv_that_works(course, monkeypatch):
    course.environment.setup()
    damage_place(course)
    monkeypatch.setattr(course.environment, "online", lambda: False)
    with pytest.raises(course.system.Problem, match="left as it is"):
        course.environment.setup()
    assert (course.root / ".venv" / "bin").is_dir()


@pytest.mark.parametrize(
    "error, expected",
    [
        (urllib.error.HTTPError("u", 403, "no", {}, None), True),
        (urllib.error.URLError(OSError("dns")), False),
        (TimeoutError(), False),
    ],
)
def test_an_answer_of_any_kind_is_a_network(modules, monkeypatch, error, expected):
    def urlopen(address, timeout):
        raise error

    monkeypatch.setattr(modules[1].urllib.request, "urlopen", urlopen)
    assert modules[1].online() is expected


def test_too_little_room_is_said_before_anything_is_installed(course, monkeypatch):
    monkeypatch.setattr(course.environment, "free_bytes", lambda: 3 * course.environment.GB)
    with pytest.raises(course.system.Problem, match=r"about 8 GB .* 3\.0 GB are free.*--cpu"):
        course.environment.setup()
    assert course.commands == []
    monkeypatch.setattr(course.environment, "output_of", lambda command, **environment: "")
    course.environment.setup(cpu=True)  # 2 GB are enough


def test_a_disk_that_fills_up_is_said(course, monkeypatch):
    room = iter([9 * course.environment.GB, 10**7, 10**7])
    monkeypatch.setattr(course.environment, "free_bytes", lambda: next(room))
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
    assert read_stamp(course) == {"state": "installing"}
