"""Behind lab.py: a .venv that holds what pyproject.toml, constraints.txt and weights.txt say; a good one is never lost.

.venv/lab-stamp.json says what was installed. While an update changes packages in place it says "installing" and what
it said before; the next start then looks at every file. A new environment is made beside the old one (lab_keep), which
stands again unless the new one is whole. "building" is said where there was nothing before.
Standard library only; every Python from 3.6 must be able to import it.
"""

import collections
import hashlib
import os
import shutil
import time

import lab_install
import lab_keep
from lab_install import Offline, announce, base_python, check_disk, cpu_builds, install, make_venv
from lab_system import (
    MODULES,
    Problem,
    check_machine,
    find_uv,
    one_at_a_time,
    output_of,
    path,
    probe,
    read_json,
    say,
    venv_python,
    weights,
    write_json,
)

# action: "ready", "update", "switch" or "build"; want: what the stamp will say; why: words; found: what probe says of
# .venv; again: packages to install once more; how: how closely to look afterwards
Plan = collections.namedtuple("Plan", "action want why found again how")


def stamp():
    return path(".venv", "lab-stamp.json")


def inputs_key():
    """A digest of everything that decides what is installed, whatever the line ends."""
    key = hashlib.sha256(" ".join(lab_install.WANTS + lab_install.WEIGHTS).encode())
    for name in ("pyproject.toml", "constraints.txt", "weights.txt"):
        with open(path(name), "rb") as file:
            key.update(file.read().replace(b"\r\n", b"\n") + b"\0")
    return key.hexdigest()


def remembered():
    """What the stamp says of a finished setup, an interrupted update's of the one before it; {} when it is nonsense."""
    old = read_json(stamp())
    old = old.get("before", {}) if old.get("state") == "installing" else old
    texts = [old.get(name) for name in ("key", "root", "python")] if isinstance(old, dict) else [None]
    return old if all(isinstance(text, str) for text in texts) and old.get("state") == "done" else {}


def look(how="quick"):
    """probe of .venv, or None where its Python does not run as that of .venv. Only what is all there is imported."""
    found = probe(venv_python(), "quick" if how == "quick" else "files", MODULES + weights())
    if not found or os.path.realpath(found["prefix"]) != os.path.realpath(path(".venv")):
        return None
    if how != "imports" or faults(found):
        return found
    crashed = dict(found, failing=[["torch", "Python itself ends when the packages are imported"]])
    return probe(venv_python(), "imports", MODULES + weights()) or crashed


def faults(found):
    """Words for all that is wrong with what is installed."""
    return found["missing"] + [": ".join(pair) for pair in found["damaged"] + found["failing"]]


# ---------------------------------------------------------------- what is to be done


def plan(cpu, retry=False, how="quick"):
    """cpu True, False or None (as before) -> Plan"""
    state, old = read_json(stamp()).get("state"), remembered()
    want = {"state": "done", "key": inputs_key(), "root": path(), "cpu_asked": old.get("cpu_asked") is True}
    want["cpu_asked"] = want["cpu_asked"] if cpu is None else cpu
    if not os.path.lexists(path(".venv")) or not lab_keep.new_entries():
        return Plan("build", want, "Setting up the course in .venv: needed once, takes some minutes.", None, [], how)
    if state == "building":
        return Plan("build", want, "The first setup was interrupted; going on with it.", None, [], how)
    found = look(how)
    if found and how == "quick" and (state == "installing" or found["missing"]):
        found = look("files")
    why = unfit(old, found)
    if why:
        return Plan("build", want, why, found, [], how)
    again = [package for package, _ in found["damaged"]]
    if again or found["missing"]:
        why = f".venv is damaged ({', '.join(faults(found)[:3])}); mending it."
        return Plan("update", want, why, found, again, how)
    return Plan(*changed(old, want, state, retry), found, again, how)


def unfit(old, found):
    """What makes .venv unusable as it is -> words, or "" when nothing does."""
    if found is None:
        return "The Python in .venv does not run any more (upgraded Python?); making .venv anew."
    if old and old["root"] != path():
        return "The course's folder has moved; making .venv anew."
    if old and found["python"] != old["python"]:
        return "The Python in .venv is another one than before; making .venv anew."
    if found["failing"]:
        return f".venv is damaged ({faults(found)[0]}); making it anew."
    return ""


def changed(old, want, state, retry):
    """What a .venv without damage needs -> (action, what the stamp will say, why)"""
    if state == "installing":
        return "update", want, "The last setup was interrupted; going on with it."
    if not old:
        return "update", want, "There is a .venv that lab.py did not make; adding to it what the course needs."
    if want["cpu_asked"] != old.get("cpu") and (retry or want["cpu_asked"] != old.get("cpu_asked")):
        return "switch", want, f"Changing to PyTorch's {'CPU' if want['cpu_asked'] else 'ordinary'} builds."
    if old["key"] != want["key"]:
        return "update", want, "pyproject.toml, constraints.txt or weights.txt have changed; bringing .venv up to date."
    return "ready", want, ""


# ---------------------------------------------------------------- doing it


def setup(cpu=None, retry=False, offline_ok=True, how="quick"):
    """Make .venv what it should be; a fraction of a second when it is. retry: ask again for CPU builds not had."""
    if cpu and not lab_install.LINUX:
        say("--cpu: PyTorch's ordinary builds for this system are CPU builds already.")
        cpu = False
    if os.path.lexists(path(".venv")) and not os.path.isdir(path(".venv")):
        raise Problem(".venv is not a folder, and the course is installed there. Move it away or delete it.")
    if not lab_keep.unfinished() and plan(cpu, retry, how).action == "ready":
        if cpu is not None and cpu != read_json(stamp()).get("cpu_asked"):
            write_json(stamp(), dict(read_json(stamp()), cpu_asked=cpu))
        return
    check_machine()
    with one_at_a_time():
        lab_keep.recover()
        relink()
        todo = plan(cpu, retry, how)  # again: another setup may have done it while this one waited
        if todo.action == "ready":
            return
        say(todo.why)
        began = time.time()
        if {"build": build, "switch": switch, "update": update}[todo.action](todo, offline_ok):
            say(f"Set up in {time.time() - began:.0f} s.")


def relink():
    """A .venv whose Python is gone, or does not run, gets it back in place: its packages are as good as they were."""
    versions = [name[6:] for name in lab_keep.entries("lib") if name.startswith("python3.")]  # on Windows: the stamp's
    version = versions[0] if len(versions) == 1 else remembered().get("python")
    if look() or not version or read_json(stamp()).get("state") == "building":
        return
    for python in (base_python(), shutil.which(f"python{version}")):
        if python and (probe(python) or {}).get("python") == version:
            say("The Python in .venv does not run any more; putting it back.")
            folder = os.path.dirname(venv_python())
            for name in ("python", "python3", f"python{version}"):
                if os.path.lexists(os.path.join(folder, name)):
                    os.remove(os.path.join(folder, name))
            output_of([python, "-m", "venv", "--without-pip", path(".venv")])
            return


def build(todo, offline_ok):
    """Make .venv from nothing; the one before waits, and stands again if that fails."""
    if not lab_install.online():
        return go_on(todo, offline_ok)
    first = read_json(stamp()).get("state") == "building" or not lab_keep.new_entries()
    if first:
        lab_keep.clear()
    check_disk(todo.want["cpu_asked"])
    announce(todo.want["cpu_asked"])
    os.makedirs(path(".venv"), exist_ok=True)
    if not first:
        lab_keep.set_aside()
    try:
        write_json(stamp(), {"state": "building"})
        fill(todo.want, todo.how)
    except BaseException:
        if not first:
            say("The .venv of before is put back.")
            lab_keep.put_back()
        raise
    lab_keep.drop()
    return True


def fill(want, how):
    make_venv(find_uv())
    uv = find_uv() or lab_install.uv_by_pip()
    cpu = want["cpu_asked"] and cpu_builds(uv)
    if want["cpu_asked"] and not cpu:
        check_disk(False)
        announce(False)
    finish(want, install(uv, cpu) and cpu, uv, how)


def switch(todo, offline_ok):
    """Other builds of PyTorch: a new .venv, since installers take one build for as good as the other."""
    if todo.want["cpu_asked"] and not cpu_builds(find_uv() or lab_install.uv_program()):
        write_json(stamp(), dict(read_json(stamp()), cpu_asked=True))
        return False
    return build(todo, offline_ok)


def update(todo, offline_ok):
    """Bring .venv up to date in place. Without a network the one that is there is kept, and still used."""
    if not lab_install.online():
        return go_on(todo, offline_ok)
    old, raw = remembered(), read_json(stamp())
    write_json(stamp(), {"state": "installing", "before": old})
    try:
        uv = find_uv() or lab_install.uv_by_pip()
        cpu = old.get("cpu") is True if old else todo.want["cpu_asked"] and cpu_builds(uv)
        install(uv, cpu, todo.again)
        finish(todo.want, cpu, uv, todo.how)
    except Offline:  # installers download everything before they change anything
        write_json(stamp(), raw)
        return go_on(todo, offline_ok)
    return True


def go_on(todo, offline_ok):
    """Without a network: what is installed is used where it can be, and is left as it is in any case."""
    text = "The package index cannot be reached from here (behind a proxy, set HTTPS_PROXY)"
    if todo.found is None and not lab_keep.new_entries():
        raise Offline(text + ", and nothing is installed yet. Run the same command again when there is a network.")
    moved = remembered() and remembered()["root"] != path()
    if not offline_ok or moved or not todo.found or set(MODULES) & set(todo.found["missing"]) or todo.found["failing"]:
        raise Offline(text + ", so .venv is left as it is. Run the same command again when there is a network.")
    say(text + ".\nGoing on with what is installed.")
    return False


def finish(want, cpu, uv, how):
    """Every file is looked for before the stamp says "done"; what came damaged out of a cache is fetched once more."""
    how = "files" if how == "quick" else how
    found = look(how)
    again = [name for name, _ in found["damaged"] + found["failing"]] if found else []
    if again:
        say(f"Damaged: {', '.join(faults(found)[:3])}. Fetching that again.")
        install(uv, cpu, again)
        found = look(how)
    if found is None or faults(found):
        words = ", ".join(faults(found)[:3]) if found else "its Python does not run"
        raise Problem(
            f"The installation did not bring all it should have ({words}). Delete the folder .venv and run this again."
        )
    write_json(stamp(), dict(want, cpu=cpu, python=found["python"]))
