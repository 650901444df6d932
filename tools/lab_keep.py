"""Behind lab.py: the old environment is kept until the new one is whole, whatever happens in between.

Its entries move into .venv/lab-old and back: names only, so that is done at once, and .venv itself may be a link to a
larger disk. .venv/lab-keep.json says how far that has come; it is written before each step and each step can be done
again, so `recover` brings order after a kill at any moment.
Standard library only; every Python from 3.6 must be able to import it.
"""

import os
import shutil

from lab_system import path, read_json, write_json

OURS = ("lab-old", "lab-keep.json", "lab-keep.json.new")


def journal():
    return path(".venv", "lab-keep.json")


def begin(step):
    write_json(journal(), {"step": step})


def entries(*parts):
    folder = path(".venv", *parts)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def new_entries():
    return [name for name in entries() if name not in OURS]


def remove(*parts):
    entry = path(".venv", *parts)
    shutil.rmtree(entry) if os.path.isdir(entry) and not os.path.islink(entry) else os.remove(entry)


def set_aside():
    """What is in .venv waits in .venv/lab-old."""
    os.makedirs(path(".venv", "lab-old"), exist_ok=True)
    begin("aside")
    try:
        for name in new_entries():
            os.replace(path(".venv", name), path(".venv", "lab-old", name))
    except OSError:  # a program that uses it, on Windows
        put_back()
        raise
    begin("building")


def put_back():
    """The old environment stands again as it was; what was made in its place is removed."""
    if read_json(journal()).get("step") == "building":
        for name in new_entries():
            remove(name)
        begin("aside")
    for name in entries("lab-old"):
        if os.path.lexists(path(".venv", name)):
            remove(name)
        os.replace(path(".venv", "lab-old", name), path(".venv", name))
    close()


def drop():
    """The new environment is whole: the old one goes."""
    begin("dropping")
    for name in entries("lab-old"):
        remove("lab-old", name)
    close()


def close():
    if os.path.isdir(path(".venv", "lab-old")):
        os.rmdir(path(".venv", "lab-old"))
    for name in (journal(), journal() + ".new"):
        if os.path.lexists(name):
            os.remove(name)


def recover():
    """After a kill: .venv is the old environment, or the new one if that was whole."""
    if read_json(journal()).get("step") == "dropping":
        drop()
    elif unfinished():
        put_back()


def unfinished():
    return any(name in OURS for name in entries())


def clear():
    """Remove what a first setup left: there was nothing before it."""
    for name in new_entries():
        remove(name)
