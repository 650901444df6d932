"""TEACHING.md: its minutes and what comes before what are those of the notebooks, and its timetables add up."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tools"))
try:
    import lab_install
finally:
    sys.path.remove(str(ROOT / "tools"))

from tools import source  # noqa: E402


def table(begin):
    """The rows of the table whose head begins so, each as a list of cells"""
    head, _, *rest = TEXT[TEXT.index(begin) :].splitlines()
    rows = [line[1:-1].split("|") for line in rest[: next(i for i, x in enumerate(rest) if not x)]]
    assert all(len(row) == head.count("|") - 1 for row in rows)
    return [[cell.strip() for cell in row] for row in rows]


def stated(number, ending=""):
    """The source of a notebook -> (title, minutes, text of the first cell)"""
    (path,) = (ROOT / "notebooks" / "src").glob(f"{number}_*{ending}.py") if ending else (
        p for p in (ROOT / "notebooks" / "src").glob(f"{number}_*.py") if not p.stem.endswith(source.DEEPER)
    )  # fmt: skip
    cells = source.read_source(path)
    text = " ".join(cells[0].source.split())
    minutes = re.search(r"\*\*(\d+) minutes\*\* to read and try", text)[1]
    return minutes, text


def needed(text):
    """The first cell of a notebook -> the numbers of the notebooks that it says come before it"""
    said = re.search(r"to run\. (.*)", text)[1].replace("00 to 03", "00, 01, 02 and 03")
    said = re.sub(r"notebook \d\d helps|\*Going deeper\*.*", "", said)
    return re.findall(r"\b\d\d\b", said)


ROWS = table("| | notebook |")
NEEDS = {number: needs.split() for number, _, _, _, needs in ROWS}


def test_every_notebook_has_its_minutes_and_what_it_needs():
    stems = [p.stem for p in sorted((ROOT / "notebooks" / "src").glob("*.py"))]
    deeper = {s[:2] for s in stems if s.endswith(source.DEEPER)}
    assert [row[0] for row in ROWS] == sorted({s[:2] for s in stems})
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for number, title, minutes, more, needs in ROWS:
        own, text = stated(number)
        assert (minutes, needs.split()) == (own, needed(text)), number
        assert f"| {number} | [{title}](notebooks/{number}_" in readme
        assert more == (stated(number, source.DEEPER)[0] if number in deeper else ""), number


def test_a_deeper_notebook_needs_its_own_number_only():
    deeper = [number for number, *_, more, _ in ROWS if more]
    assert len(deeper) > 7 and all(needed(stated(n, source.DEEPER)[1]) == [n] for n in deeper)


def test_timetables_add_up_and_nothing_comes_before_what_it_needs():
    minutes, rows = {row[0]: int(row[2]) for row in ROWS}, table("| for |")
    known, taught = set(), {}
    for name, notebooks, total in rows:
        numbers = notebooks.split()
        assert sum(minutes[n] for n in numbers) == int(total), name
        if name.startswith("a"):  # it begins anew
            known = set()
        elif "the day after" in name:
            known = {n for first, some in taught.items() if first.startswith("a day") for n in some}
        for n in numbers:
            assert set(NEEDS[n]) <= known, (name, n)
            known = known | {n}
        taught[name] = numbers
    days = [numbers for name, numbers in taught.items() if name.endswith("day")]
    assert len(days) == 5 and sorted(sum(days, [])) == list(minutes)  # a week has all of them


def test_forty_downloads_are_as_large_as_it_says():
    least = min(sizes[0] for sizes in (lab_install.CUDA, lab_install.CPU, lab_install.OTHER))
    assert f"are at least {40 * least:.0f} GB" in TEXT
    assert f"({lab_install.CUDA[0]} GB for Linux with CUDA, else {lab_install.OTHER[0]})" in TEXT


def test_what_the_learners_version_leaves_out_holds_the_answers_and_nothing_else_does():
    left_out = re.findall(r'":!([^"]+)"', TEXT)
    assert left_out == ["notebooks/solutions", "notebooks/src", "tests"]
    answers = "return (logits.argmax(dim=1) == y).double().mean().item()"  # of 00.accuracy
    holders = {
        path.relative_to(ROOT).as_posix()
        for folder in ("notebooks", "sftlib", "tests", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".ipynb", ".md") and answers in path.read_text(encoding="utf-8").replace('\\"', '"')
    }
    assert {name for name in holders if not name.startswith(tuple(left_out))} == set()
    assert any(name.startswith("notebooks/src") for name in holders)
    assert any(name.startswith("notebooks/solutions") for name in holders)
