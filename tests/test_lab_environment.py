"""The .venv behind lab.py: when it is made, brought up to date, made anew."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import itertools
import json
import os
import sys

import pytest
from lab_course import course, index, modules, read_stamp  # noqa: F401

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")

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


@needs_links
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


@pytest.mark.parametrize("first", [True, False], ids=["first setup", "update"])
def test_a_kill_while_installing_leaves_no_stamp_that_says_done(course, monkeypatch, first):
    def killed(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        if command[1] == "pip":
            raise KeyboardInterrupt

    if not first:
        course.environment.setup()
        (course.root / "constraints.txt").write_text("newer")
    monkeypatch.setattr(course.environment, "run", killed)
    with pytest.raises(KeyboardInterrupt):
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


@needs_links
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

    with course.system.one_at_a_time(), open(course.root / "my" / ".setup.lock", "rb") as other:
        assert not course.system.locked(other)
    with open(course.root / "my" / ".setup.lock", "rb") as file:
        assert course.system.locked(file) and os.get_inheritable(file.fileno())
        fcntl.flock(file, fcntl.LOCK_UN)


# ---------------------------------------------------------------- CPU builds


def installed_with(course):
    return [c[5:7] == ["--torch-backend", "cpu"] for c in course.commands if c[1:3] == ["pip", "install"]]


def test_cpu_asks_uv_for_cpu_builds_and_is_remembered(course, index):
    course.environment.setup(cpu=True)
    assert installed_with(course) == [True] and read_stamp(course)["cpu"] is True
    assert course.environment.plan(None)[0] == course.environment.plan(True)[0] == "ready"
    (course.root / "constraints.txt").write_text("newer")
    course.environment.setup()
    assert installed_with(course) == [True, True]


@pytest.mark.parametrize("cpu", [True, False])
def test_other_builds_come_in_a_new_venv(course, index, cpu):
    """Installers would take one build for as good as the other."""
    course.environment.setup(cpu=not cpu)
    (course.root / ".venv" / "leftover").write_text("")
    course.environment.setup(cpu=cpu)
    assert installed_with(course) == [not cpu, cpu] and not (course.root / ".venv" / "leftover").exists()
    assert read_stamp(course)["cpu"] is cpu


def test_cpu_without_their_index_is_said_and_takes_the_ordinary_builds(course, index, capsys):
    index["there"] = False
    course.environment.setup(cpu=True)
    assert "cannot be reached; taking the ordinary builds" in capsys.readouterr().out
    assert installed_with(course) == [False]
    assert course.environment.plan(True)[0] == "ready"  # a start does not try again each time
    course.environment.setup(retry=True)  # `lab.py setup` does, and keeps what works
    assert installed_with(course) == [False]
    index["there"] = True
    course.environment.setup(retry=True)
    assert installed_with(course) == [False, True]


def test_no_cpu_takes_back_a_wish_that_was_not_met(course, index):
    index["there"] = False
    course.environment.setup(cpu=True)
    course.environment.setup(cpu=False)
    index["there"] = True
    assert course.environment.plan(None, retry=True)[0] == "ready" and installed_with(course) == [False]


def test_cpu_is_no_change_where_the_ordinary_builds_are_cpu_builds(course, monkeypatch, capsys):
    monkeypatch.setattr(course.environment, "LINUX", False)
    course.environment.setup(cpu=True)
    assert "CPU builds already" in capsys.readouterr().out and "--torch-backend" not in course.commands[-1]
