"""Every file that a new notebook needs, made from tools/template/: `python tools/notebooks.py --new 09_topic`.

Or, once there is a 09_topic, --new 09_topic_deeper: the same number, files of its own.
"""

import re

from tools.source import DEEPER

NAME = re.compile(r"(\d\d)_([a-z][a-z0-9_]*)")
ROW = re.compile(r"^\| \d\d \| \[.*\n", re.M)  # of the README's table of notebooks
FILES = {  # template -> where it goes
    "notebook.py": "notebooks/src/{name}.py",
    "checks.py": "sftlib/checks/nb{key}.py",
    "answers.py": "tests/checks_{key}.py",
    "slips.py": "tests/checks_{key}_slips.py",
    "browser.py": "tests/browser/test_notebook_{key}.py",
}
LEFT = """Now replace what says TODO, in each of these files and in the README's row, and the example with your own.
By hand, where it concerns the notebook: its terms in notebooks/GLOSSARY.md, a card for new data or weights in
data/README.md, the last notebook's "Next:", a line in CHANGELOG.md. A test fails while a TODO is left."""


def make(name, root):
    """name "NN_topic", root of the project -> paths made; ValueError, and nothing written, where it cannot be."""
    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f"got the name {name!r}; expected NN_topic, two digits and small letters, as 09_text_too")
    deeper, main = name.endswith(DEEPER), name.removesuffix(DEEPER)
    number, title = match[1], main[3:].replace("_", " ").capitalize() + (", going deeper" if deeper else "")
    key = number + (DEEPER if deeper else "")  # of the files that are called by their notebook's number
    paths = {t: root / place.format(name=name, key=key) for t, place in FILES.items()}
    _free(root, number, main if deeper else None, paths.values())
    readme = _with_row((root / "README.md").read_text(encoding="utf-8"), number, name, title)
    for template, path in paths.items():
        text = (root / "tools" / "template" / template).read_text(encoding="utf-8")
        path.write_text(_named(text, number, name, title), encoding="utf-8", newline="\n")
    (root / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    return [*paths.values(), root / "README.md"]


def _free(root, number, main, paths):
    """ValueError where the number is taken, or where the notebook `main` that a deeper one continues is not there."""
    sources = root / "notebooks" / "src"
    if main and not (sources / f"{main}.py").exists():
        raise ValueError(f"got {main}{DEEPER}, but there is no {main} that it could continue: make that first")
    taken = [*(() if main else sources.glob(f"{number}_*.py")), *(p for p in paths if p.exists())]
    if taken:
        raise ValueError(f"got the number {number}, but {taken[0].relative_to(root)} is there: take another number")


def _named(text, number, name, title):
    return text.replace("NN_topic", name).replace("TITLE", title).replace("NN", number)


def _with_row(readme, number, name, title):
    """README -> the same with a row of the notebook, in the order of the numbers"""
    rows = list(ROW.finditer(readme))
    if not rows:
        raise ValueError("README.md has no table of notebooks; expected rows that begin with | 00 | [")
    before = [row for row in rows if row[0][2:4] <= number]  # its own: the one that it continues
    place = before[-1].end() if before else rows[0].start()
    row = f"| {number} | [{title}](notebooks/{name}.ipynb) | TODO: the question? | TODO min | TODO min |\n"
    return readme[:place] + row + readme[place:]
