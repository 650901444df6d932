"""Run by the Python that is asked: what it is, and what an environment lacks. Prints JSON.

    python -I lab_probe.py quick|files|imports MODULE … NAME==VERSION …

files: every file that the installers wrote is looked for, libraries, weights, pictures and tables with their
sizes (half a second).
imports: the modules are imported too (some seconds). Standard library only; every Python from 3.6 must be able to
read it.
"""

import csv
import importlib
import importlib.util
import json
import os
import sys

# Nobody edits these by hand: libraries, weights, pictures and tables
SIZED = (".so", ".pyd", ".dll", ".dylib", ".pth", ".pt", ".pkl", ".gguf", ".safetensors", ".npz", ".png", ".csv")


def lacking(wanted):
    """Which of the modules are not found, and which packages are not there in the version asked for -> words"""
    for word in wanted:
        name, _, version = word.partition("==")
        if not version:
            if importlib.util.find_spec(name) is None:
                yield name
            continue
        from importlib import metadata  # from 3.8 on; only an environment of ours is asked for packages

        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            there = None
        if there != version:
            yield word


def damaged():
    """-> [package, file], the first file that is missing or cut off, for every package that has one"""
    from importlib import metadata

    for distribution in metadata.distributions():
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            name, size = row[0], row[2] if len(row) > 2 else ""
            try:
                there = os.stat(str(distribution.locate_file(name))).st_size
            except OSError:
                there = None
            if not name.endswith(".pyc") and (there is None or (size and is_cut(name, there, int(size)))):
                yield [distribution.metadata["Name"], name]
                break


def is_cut(name, there, size):
    return there != size and (there == 0 or ".so." in name or name.endswith(SIZED))


def failing(modules):
    """-> [module, what its import says] for every module that cannot be imported"""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it is, it is told
            yield [name, " ".join(str(error).split())[:200] or type(error).__name__]


def main(how, *wanted):
    modules = [word for word in wanted if "==" not in word]
    found = {"python": "{}.{}".format(*sys.version_info[:2]), "prefix": sys.prefix, "missing": list(lacking(wanted))}
    found["damaged"] = list(damaged()) if how != "quick" else []
    found["failing"] = list(failing(modules)) if how == "imports" else []
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
