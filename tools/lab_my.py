"""Behind lab.py: my/, the learner's copies. What was changed there is never overwritten.

It holds the notebooks, and what their text points to at the same places as seen from notebooks/: the glossary, the
solutions (in a folder of their own), the data cards and tables. my/.copies.json keeps what the course gave.
Standard library only; every Python from 3.6 must be able to import it.
"""

import hashlib
import itertools
import os

from lab_system import Problem, path, read_json, say, write_json, write_whole


def names_in(ending, *folder):
    there = os.path.isdir(path(*folder))
    return sorted(n for n in os.listdir(path(*folder)) if n.endswith(ending)) if there else []


def course_notebooks():
    return names_in(".ipynb", "notebooks")


def course_files():
    """Name in my/, with slashes -> file of the course"""
    found = {name: path("notebooks", name) for name in course_notebooks()}
    found.update((name, path("notebooks", name)) for name in names_in(".md", "notebooks"))
    found.update(("solutions/" + name, path("notebooks", "solutions", name)) for name in solutions())
    found.update(("data/" + name, path("data", name)) for name in names_in(".md", "data"))
    tables = names_in(".csv", "data", "results")
    found.update(("data/results/" + name, path("data", "results", name)) for name in tables)
    return found


def solutions():
    return names_in(".ipynb", "notebooks", "solutions")


def mine(name):
    return path("my", *name.split("/"))


def make_folder(*parts):
    try:
        os.makedirs(path(*parts), exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        name = "/".join(parts)
        raise Problem(
            f"{name} is not a folder, and the course keeps your copies there. Rename what is called {name}."
        ) from None


def read(name):
    with open(name, "rb") as file:
        return file.read()


def read_mine(name):
    if os.path.isdir(mine(name)):
        raise Problem(f"my/{name} is a folder, and a file of the course has that name. Rename your folder.")
    return read(mine(name))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def copy_course():
    """Give my/ the files it lacks and renew those the learner has not touched -> names of the outdated others."""
    make_folder("my")
    given = read_json(path("my", ".copies.json"))  # name -> digest of what the course gave
    outdated, before = [], dict(given)
    for name, source in course_files().items():
        make_folder("my", *name.split("/")[:-1])
        course = read(source)
        there = digest(read_mine(name)) if os.path.lexists(mine(name)) else None
        if there is None or (there == given.get(name) and there != digest(course)):
            write_whole(mine(name), course)
        elif there != digest(course) and given.get(name) != digest(course):
            outdated.append(name)
            continue
        given[name] = digest(course)
    if given != before:
        write_json(path("my", ".copies.json"), given)
    return outdated


def find_notebook(word):
    """ "2", "02", "02_decoupling" or "02_decoupling.ipynb" -> the notebook's file name; a deeper one's name in full"""
    names = course_notebooks()
    stem = os.path.basename(word)[: -len(".ipynb")] if word.endswith(".ipynb") else word
    stem = stem.zfill(2) if stem.isdigit() else stem
    found = [n for n in names if n == stem + ".ipynb"]
    found = found or [n for n in names if n.startswith(stem + "_") and not n.endswith("_deeper.ipynb")]
    if len(found) != 1:
        raise Problem(f"There is no notebook {word!r}. Choose one of: {', '.join(n[:-6] for n in names)}")
    return found[0]


def keep(name):
    """Move my/NAME aside under the first free numbered name, overwriting nothing -> that name."""
    stem, ending = os.path.splitext(name)
    for number in itertools.count(1):
        kept = f"{stem}-old-{number}{ending}"
        try:
            os.close(os.open(mine(kept), os.O_CREAT | os.O_EXCL))  # ours now, whoever else looks for one
        except FileExistsError:
            continue
        os.replace(mine(name), mine(kept))
        return kept


def reset(words):
    """A fresh copy of each named notebook; the learner's own is kept beside it."""
    if not words:
        raise Problem("Which notebook? For example: python lab.py reset 02")
    for name in [find_notebook(word) for word in words]:
        kept = None
        if os.path.lexists(mine(name)) and read_mine(name) != read(path("notebooks", name)):
            kept = keep(name)
        copy_course()
        say(f"my/{name} is the course's again{f'; yours is kept as my/{kept}' if kept else ''}.")
    return 0


def tell_outdated(names):
    for name in names:
        short = name[:-6] if name.endswith("_deeper.ipynb") else name[:2]
        fresh = f"python lab.py reset {short}" if name in course_notebooks() else f"delete my/{name} and start again"
        say(f"The course has a newer {name}; yours is left as it is. A fresh one: {fresh}")
