"""The source of a notebook: read, held to its form, turned into the learner's and the solved cells, and measured.

tools/notebooks.py says how a source is written.
"""

import ast
import re
from dataclasses import dataclass, replace

import jupytext

TAGS = {"setup", "exercise", "solution", "varies", "raises-exception", "stderr", "hide-input"}
BEGIN, END, STUB = "# BEGIN SOLUTION", "# END SOLUTION", "# STUB:"
CHECK = re.compile(r"""^check\(\s*["']([^"']+)["']""", re.M)
DETAILS = re.compile(r"<details>.*?</details>\n*", re.S)
STARRED = re.compile(r"^### ★", re.M)
HINT = re.compile(r"<details>\s*<summary>Hint (\d)</summary>")
WIDTH = 88  # characters of a line of code, as a browser window of 1,280 pixels shows them


class BuildError(Exception):
    """What is wrong with which cell."""


@dataclass(frozen=True)
class Cell:
    """One cell of a source: kind "markdown" or "code", its text, its tags, and the line where it starts."""

    kind: str
    source: str
    tags: tuple[str, ...] = ()
    line: int = 0


def read_source(path):
    """path of a percent script -> list of Cell; a mistake in the form is a BuildError that names the line."""
    text = path.read_text(encoding="utf-8")
    starts = [i for i, line in enumerate(text.splitlines(), 1) if line.startswith("# %%")]
    parsed = jupytext.reads(text, fmt="py:percent").cells
    if len(parsed) != len(starts):
        raise BuildError(
            f"{path.name}: text before the first `# %%`, or an empty cell: {len(parsed)} cells, {len(starts)} marks"
        )
    cells = [
        Cell(c.cell_type, c.source.strip("\n"), tuple(c.metadata.get("tags", ())), line)
        for c, line in zip(parsed, starts, strict=True)
    ]
    wrong = [f"{path.name}:{line}: {what}" for line, what in _mistakes(cells)]
    if wrong:
        raise BuildError("\n".join(wrong))
    return cells


def _mistakes(cells):
    if not cells or cells[0].kind != "markdown" or not cells[0].source.startswith("# "):
        yield 1, "the first cell must be text that starts with `# NN Title`"
    for i, cell in enumerate(cells):
        if unknown := set(cell.tags) - TAGS:
            yield cell.line, f"unknown tags {sorted(unknown)}; there are {sorted(TAGS)}"
        if not cell.source.strip() or cell.kind not in ("markdown", "code"):
            yield cell.line, f"an empty or {cell.kind} cell"
        if cell.kind == "code":
            yield from (
                (cell.line + 1 + row, f"{len(line)} characters of code; at most {WIDTH} fit a learner's window")
                for row, line in enumerate(cell.source.splitlines())
                if len(line) > WIDTH
            )
        if "exercise" in cell.tags:
            yield from ((cell.line, what) for what in _exercise_mistakes(cells, i))
        elif BEGIN in cell.source or END in cell.source:
            yield cell.line, "a solution outside a cell tagged `exercise`"


def _exercise_mistakes(cells, i):
    marks = [line.strip() for line in cells[i].source.splitlines() if line.strip() in (BEGIN, END)]
    if not marks or marks != [BEGIN, END] * (len(marks) // 2):
        yield f"an exercise needs `{BEGIN}` … `{END}`, each on its own line"
    if not CHECK.search(cells[i].source):
        yield 'an exercise needs a line `check("NN.name", answer)`'
    before = _text_before(cells, i)
    after = [c for c in cells[i + 1 : i + 2] if not STARRED.search(c.source)]
    if not before:
        yield "an exercise needs a text cell with its task just before it"
    hints = [h for c in (*before, *after) if c.kind == "markdown" for h in HINT.findall(c.source)]
    if hints != ["1", "2", "3"]:
        yield f"an exercise needs three <details><summary>Hint 1</summary> … around it, got {hints}"


def _text_before(cells, i):
    """The text cells between cell i and the code before it, without a cell of another exercise's hints."""
    start = i
    while start > 1 and cells[start - 1].kind == "markdown":
        start -= 1
    if start > 0 and "exercise" in cells[start - 1].tags and not STARRED.search(cells[start].source):
        start += 1  # the first text after an exercise, unless it is the next one's task, holds its hints
    return cells[start:i]


def checks_in(cells):
    """list of Cell -> the names given to `check`, in order."""
    return [name for cell in cells if "exercise" in cell.tags for name in CHECK.findall(cell.source)]


def stubbed(source):
    """An exercise's source as the learner gets it."""
    out, stubs, inside = [], [], None
    for line in source.splitlines():
        text = line.strip()
        if text == BEGIN:
            inside, stubs = line[: line.index("#")], []
        elif text == END:
            out += [inside + s for s in stubs or ["...  # your code here"]]
            inside = None
        elif inside is None:
            out.append(line)
        elif text.startswith(STUB):
            stubs.append(text[len(STUB) :].removeprefix(" "))
    return "\n".join(out)


def solved(source):
    """An exercise's source with its solution and without the marks."""
    lines = source.splitlines()
    return "\n".join(x for x in lines if x.strip() not in (BEGIN, END) and not x.strip().startswith(STUB))


def learner_cells(cells):
    """The cells of the learner's notebook."""
    kept = [c for c in cells if "solution" not in c.tags]
    return [replace(c, source=stubbed(c.source)) if "exercise" in c.tags else c for c in kept]


def solved_cells(cells):
    """The cells of the solved notebook; none when the notebook has nothing to solve."""
    if not any({"exercise", "solution"} & set(c.tags) for c in cells):
        return []
    title = cells[0].source.splitlines()[0].removeprefix("# ")
    note = "Only what the exercises need; the hints and the rest are in the notebook itself."
    chosen = [replace(cells[0], source=f"# Solutions: {title}\n\n{note}")]
    for i, cell in enumerate(cells):
        if "exercise" in cell.tags:
            texts = [c for c in _text_before(cells, i) if not {"setup", "solution"} & set(c.tags)]
            chosen += [replace(c, source=DETAILS.sub("", c.source).strip()) for c in texts]
            chosen.append(replace(cell, source=solved(cell.source)))
        elif {"setup", "solution"} & set(cell.tags) and i > 0:
            chosen.append(cell)
    return chosen


# --------------------------------------------------------------------------------------------------------- its measure

DEEPER = "_deeper"  # the end of the name of a Going-deeper notebook
WORD = re.compile(r"\S*\w\S*")
MOST = {"cells": 50, "words with the hints": 2000, "lines of import": 12, "lines in a cell": 15}
EXERCISES = 5


@dataclass(frozen=True)
class Length:
    """How long a learner's notebook is. Lines: of code, without comments."""

    cells: int
    code_cells: int  # exercises left out
    words: int  # to read: without signs that stand alone, without hints
    all_words: int  # whatever stands between blanks, hints too
    exercises: int
    import_lines: int
    longest_cell: int  # lines, imports left out

    @property
    def minutes(self) -> int:
        """To read and try: 150 words a minute, 1 minute a code cell, 5 an exercise; rounded to 5 minutes"""
        return 5 * round((self.words / 150 + self.code_cells + 5 * self.exercises) / 5)


def length(cells):
    """list of Cell, a source -> Length of what the learner gets"""
    cells = learner_cells(cells)
    texts = [c.source for c in cells if c.kind == "markdown"]
    text = "\n".join(DETAILS.sub("", t) for t in texts)
    code = [c for c in cells if c.kind == "code"]
    imports = [_import_lines(c.source) for c in code]
    lines = [sum(1 for x in c.source.splitlines() if x.strip() and x.strip()[0] != "#") for c in code]
    return Length(
        cells=len(cells),
        code_cells=sum("exercise" not in c.tags for c in code),
        words=len(WORD.findall(text)),
        all_words=sum(len(t.split()) for t in texts),
        exercises=len(STARRED.findall(text)),
        import_lines=sum(imports),
        longest_cell=max((n - i for n, i in zip(lines, imports, strict=True)), default=0),
    )


def _import_lines(source):
    try:
        nodes = ast.parse(source).body
    except SyntaxError:  # on purpose, or a magic
        return 0
    return sum(n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))


def too_long(cells, *, deeper=False):
    """list of Cell, a source -> sentences: what is longer than a notebook may be, or states other minutes than it takes

    Going deeper may be long, and has three exercises or more.
    """
    found = length(cells)
    got = (found.cells, found.all_words, found.import_lines, found.longest_cell)
    for (what, most), n in zip(MOST.items(), got, strict=True):
        if n > most and not (deeper and what in ("cells", "words with the hints", "lines of import")):
            yield f"{n} {what}; at most {most}"
    if deeper and found.exercises < 3 or not deeper and found.exercises != EXERCISES:
        yield f"{found.exercises} exercises; expected {'at least 3' if deeper else EXERCISES}"
    if f"**{found.minutes} minutes** to read and try" not in cells[0].source:
        yield f"the first cell should say **{found.minutes} minutes** to read and try"
