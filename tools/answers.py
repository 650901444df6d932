"""Which exercises are solved? Runs those of learners' notebooks again, and says what the checkers say.

    python tools/answers.py my                               your own copies
    python tools/answers.py handed_in --out answers.csv      a folder with a file, or a folder, for each learner

Every notebook below the folder is looked at, whatever its name: it belongs to the notebook of the course whose checks
it holds. The cells tagged `setup` and `exercise` run in a fresh kernel, from top to bottom, and with them the cells
that the course did not give: what a learner wrote for an answer in a cell of its own. The rest, all training among it,
does not run; nor is read what a cell once printed. That takes some 15 s a notebook on two cores.

The CSV has a row for each exercise with a checker of each notebook: file, exercise, mark (✅ ⬜ ❌, or – where its
check is gone or does not run), words. The screen also counts the marks of each exercise, with the mistakes that were
made most often.
✅ means: right on the cases that were tried. It is no grade, and whoever wants to print it without an answer can.
What learners wrote runs here with your rights: look before you run what strangers sent. Exit code 0: done. 2: the last
line says what cannot be.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it also runs as a script

from tools import kernel  # noqa: E402
from tools.source import CHECK  # noqa: E402

LINE = re.compile(r"^([✅⬜❌]) (\d\d\.\w+): (.*)$", re.M)  # what `check` prints
GONE = "–"
LIMIT_S = 120.0  # of a cell
PASSED_OVER = ("solutions", ".ipynb_checkpoints")
MOST_WORDS = 100  # of a mistake, on the screen


class Given(NamedTuple):
    """A notebook of the course: its name, its exercises with a checker, the ids of its cells"""

    name: str
    exercises: tuple[str, ...]
    ids: frozenset[str]


class Answer(NamedTuple):
    """What the checker says of one exercise of one file"""

    file: str
    exercise: str
    mark: str
    words: str


def course(folder: Path = ROOT / "notebooks") -> list[Given]:
    """The notebooks of the course that have exercises with a checker"""
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        names = tuple(name for cell in cells if "exercise" in _tags(cell) for name in CHECK.findall(cell.source))
        if names:
            found.append(Given(path.stem, names, frozenset(cell.id for cell in cells)))
    return found


def notebooks(where: Path) -> list[Path]:
    """A notebook, or a folder -> the notebooks; ValueError where there is none"""
    if not where.exists():
        raise ValueError(f"got {where}, which does not exist; expected a notebook, or a folder with notebooks")
    found = [where] if where.is_file() else sorted(where.rglob("*.ipynb"))
    found = [path for path in found if path == where or not {*path.relative_to(where).parts} & {*PASSED_OVER}]
    if not found:
        raise ValueError(f"got {where}, in which no file ends with .ipynb; expected notebooks")
    return found


def answers(path: Path, file: str, given: Iterable[Given]) -> list[Answer]:
    """Run the exercises of a notebook -> what its checkers say of each; none for what is no notebook of the course

    ValueError for a file that cannot be read.
    """
    try:
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    except Exception as error:  # nbformat raises many kinds
        raise ValueError(f"no notebook that can be read ({type(error).__name__})") from None
    there = {name for cell in cells for name in CHECK.findall(cell.source)}
    own = max(given, key=lambda g: len(there.intersection(g.exercises)))
    if not there.intersection(own.exercises):
        return []
    chosen = [c for c in cells if {"setup", "exercise"} & _tags(c) or c.id not in own.ids or CHECK.search(c.source)]
    said = dict(_run(chosen))
    missing = (GONE, "its check is gone")
    return [Answer(file, name, *said.get(name, missing)) for name in own.exercises]


def _run(cells: Iterable) -> Iterator[tuple[str, tuple[str, str]]]:
    """Cells -> exercise, (mark, words) of each check that ran; of one whose cell failed before it, the error"""
    with kernel.session(ROOT / "notebooks", timeout_s=LIMIT_S, SFT_PROFILE="quick", PYTHONPATH=str(ROOT)) as session:
        ended = ""
        for cell in cells:
            names = CHECK.findall(cell.source)
            try:
                outputs = [] if ended else session.run(cell.source)[0]
            except RuntimeError as error:  # the kernel died, or the cell has no end
                outputs, ended = [], str(error)
            error = next((f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"), ended)
            yield from ((name, ("❌" if error else GONE, error or "its check printed nothing")) for name in names)
            text = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
            yield from ((name, (mark, words)) for mark, name, words in LINE.findall(text))


def _tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def summary(found: Iterable[Answer]) -> Iterator[str]:
    """A line for each exercise, with its marks counted and the three commonest mistakes below it"""
    by_name: dict[str, list[Answer]] = {}
    for answer in found:
        by_name.setdefault(answer.exercise, []).append(answer)
    for name, some in sorted(by_name.items()):
        marks = Counter(answer.mark for answer in some)
        yield f"{name}: " + ", ".join(f"{marks[mark]} {mark}" for mark in f"✅⬜❌{GONE}" if marks[mark])
        mistakes = Counter(answer.words for answer in some if answer.mark == "❌")
        yield from (f"  {n} x {words[:MOST_WORDS]}" for words, n in mistakes.most_common(3))


def main(words: list[str] | None = None) -> int:
    """Run the script with these words, by default those of the command line; returns the exit code"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", type=Path, help="a notebook, or a folder with notebooks")
    parser.add_argument("--out", type=Path, help="a CSV file with a row for each exercise of each notebook")
    options = parser.parse_args(words)
    found, given = [], course()
    paths = notebooks(options.where)
    for path in paths:
        file = path.name if path == options.where else path.relative_to(options.where).as_posix()
        try:
            some = answers(path, file, given)
            print(f"{file}: {' '.join(f'{a.exercise} {a.mark}' for a in some) or 'no exercise of this course'}")
        except ValueError as error:
            some = []
            print(f"{file}: {error}")
        sys.stdout.flush()
        found += some
        if options.out:
            _write(options.out, found)  # after each: whoever stops it has what was found so far
    print("\n".join(["", *summary(found)]))
    return 0


def _write(path: Path, found: list[Answer]) -> None:
    with open(path, "w", encoding="utf-8-sig", newline="") as file:  # with the mark by which Excel knows UTF-8
        csv.writer(file).writerows([Answer._fields, *found])


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a Windows console may lack the marks
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"answers.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
