"""Make the notebooks: one source, `notebooks/src/NN_topic.py`, gives the learner's notebook and the solved one.

    python tools/notebooks.py               build all              python tools/notebooks.py 02 07     build these
    python tools/notebooks.py --check       do the sources and the notebooks agree? (runs nothing)
    python tools/notebooks.py --refresh 02  build, and renew the outputs of cells tagged `varies` too
    python tools/notebooks.py --text 02     only text, comments or the layout of code have changed: keep all outputs
                                            and run nothing; refused where code has changed
    python tools/notebooks.py --new 09_topic  make every file that a new notebook needs (tools/new_notebook.py)

notebooks/NN_topic.ipynb             exercises as stubs; executed from top to bottom in the quick profile
notebooks/solutions/NN_topic.ipynb   title, cells tagged `setup`, and the exercises with their solutions; executed

What goes beyond a notebook's main path stands in a second one of the same number, NN_topic_deeper (Going deeper): 05
builds both, a whole name only that one. Its checkers are in `sftlib/checks/nbNN_deeper.py`, the rest likewise.
How long either may be, and how its minutes are counted: tools/source.py, `too_long`; a test holds it.

How to write a source
---------------------
A percent script: `# %% [markdown]` starts text (every line commented), `# %%` starts code, and tags follow as in
`# %% tags=["varies"]`. The first cell is text and starts with `# NN Title`. The working folder is `notebooks/`.

setup             also goes into the solved notebook: imports, settings, whatever an exercise needs; must not depend on
                  untagged cells
exercise          a stub with its solution and a `check(...)` line (below)
solution          a cell, mostly text, that only the solved notebook has
varies            the output depends on the machine or the run: trained numbers, times, memory, versions, live widgets.
                  nbval ignores it. A rebuild keeps it as long as no code up to the last such cell has changed
                  (comments, layout and assertions aside, for they print nothing) and --refresh is not given; all are
                  renewed together, so that the numbers of one notebook come from one run. Such a cell holds an
                  assertion about the direction of its result
raises-exception  a failure on purpose: it must raise; stored as the failing line and the message
stderr            may write to stderr (a warning on purpose); anywhere else that fails the build
hide-input        the book folds the code away

An exercise is text with the task (★ in its heading) and the code. Three hints, folded, end that text, or stand in a
text of their own after the code.

    # %% [markdown]
    # ### ★ Exercise 1: accuracy
    # Complete `accuracy`, …
    #
    # %% tags=["exercise"]
    def accuracy(logits, y):
        # BEGIN SOLUTION
        # STUB: ...  # one line is enough
        return (logits.argmax(1) == y).float().mean().item()
        # END SOLUTION


    check("00.accuracy", accuracy)
    # %% [markdown]
    # <details><summary>Hint 1</summary>
    #
    # Which column is largest?
    #
    # </details>
    # <details><summary>Hint 2</summary> …

Everything between the two marks becomes the STUB lines (with none: `...  # your code here`), indented like BEGIN
SOLUTION. One space after `STUB:` is dropped, further ones are kept, and there may be several such lines, for example
`# STUB: answer = ...`. Marks may occur more than once in a cell. The checker lives in `sftlib/checks/nbNN.py`, its
right and wrong answers in `tests/checks_NN.py`. The learner's notebook prints ⬜, the solved one must print ✅; no
later cell may need the answer.

★★ and ★★★ exercises have no checker, so they are plain text; their discussion is a text cell tagged `solution`.

Lines of code end at 88 characters, what fits a browser window of 1,280 pixels; `ruff format` breaks most of them.

What nbval compares, it compares to the letter. So, outside cells tagged `varies`:
- print floats with at most 3 or 4 digits, and no sets, addresses, times or paths;
- end with `_ = ax.plot(x)` or `plt.show()`: a trailing `;` hides nothing;
- no tqdm, `clear_output` or display updates;
- give a widget class of your own a `__repr__`. A cell that shows a bare ipywidget is better tagged `varies`: its stored
  text is then "Run this cell to use the widget."; show a still picture beside it.
Figures are compared by nobody, but are the same bytes at each build with the same versions: seed what they show.
Paths, ANSI codes and stderr in an output fail the build, and so does an exception in a callback, a thread or a task.
Aim at 40 s a notebook on two cores; 90 s is the limit. The build prints the time and the slowest cells.
"""

import argparse
import ast
import copy
import hashlib
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import nbformat.v4

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it also runs as a script

from tools import kernel, new_notebook  # noqa: E402
from tools.source import BuildError, learner_cells, read_source, solved_cells  # noqa: E402

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
WIDGET = "application/vnd.jupyter.widget-view+json"
LIMIT_S = 90


# -------------------------------------------------------------------------------------------------------- the notebook


def skeleton(cells):
    """list of Cell -> notebook without outputs. Ids come from the cells' own text, so an edit changes one id only."""
    notebook = nbformat.v4.new_notebook(metadata=copy.deepcopy(METADATA))
    seen = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.kind}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        metadata = {"tags": _stored_tags(cell.tags)} if cell.tags else {}
        make = nbformat.v4.new_code_cell if cell.kind == "code" else nbformat.v4.new_markdown_cell
        name = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        notebook.cells.append(make(cell.source, id=name, metadata=metadata))
    return notebook


def _stored_tags(tags):
    return [*tags, "nbval-ignore-output"] if "varies" in tags else list(tags)


def execute(notebook, cells, folder, where):
    """Run every code cell in one fresh kernel and store the normalised outputs; -> [(seconds, line)]."""
    times, number = [], 0
    with kernel.session(folder, SFT_PROFILE="quick") as session:
        last = max((i for i, c in enumerate(cells) if c.kind == "code"), default=0)
        for i, (node, cell) in enumerate(zip(notebook.cells, cells, strict=True)):
            if cell.kind != "code":
                continue
            number += 1
            place = f"{where}:{cell.line}: code cell {number}"
            try:
                outputs, seconds = session.run(cell.source, live="varies" in cell.tags)
                escaped = kernel.uncaught(session.client, wait=i == last)
            except RuntimeError as error:
                raise BuildError(f"{place}: {error}\n{_numbered(cell.source)}") from error
            outputs = [normalised(output, cell) for output in outputs]
            if wrong := [*problems(outputs, cell), *(f"escaped in a {e}" for e in escaped)]:
                raise BuildError(f"{place}: " + "\n".join(wrong) + f"\n{_numbered(cell.source)}")
            for output in outputs:
                if output["output_type"] == "execute_result":
                    output["execution_count"] = number
            node.execution_count, node.outputs = number, outputs
            times.append((seconds, cell.line))
    return times


def _numbered(source):
    return "\n".join(f"  {i:3} | {line}" for i, line in enumerate(source.splitlines(), 1))


def normalised(output, cell):
    """One output without what changes from run to run or from machine to machine."""
    if output["output_type"] == "error":
        return _short_error(output)
    data = output.get("data", {})
    if data.pop(WIDGET, None) is not None and "varies" in cell.tags:
        data["text/plain"] = "Run this cell to use the widget."
    return output


def _short_error(output):
    """The failing line of the cell and the message: the frames below name files of this machine."""
    plain = kernel.ANSI.sub("", "\n".join(output["traceback"]))
    message = f"{output['ename']}: {output['evalue']}"
    frame = re.search(r"^\s*Cell In.*?$(.*?)(?=^\s*(?:File|Cell In)\b|\Z)", plain, re.M | re.S)
    arrow = re.search(r"^-+> *(\d+) ?(.*)$", frame[1], re.M) if frame else None
    where = [f"  line {arrow[1]} of this cell:  {arrow[2].strip()}"] if arrow else []
    output["traceback"] = ["Traceback (most recent call last)", *where, message]
    return output


def _texts(output):
    """Every text in an output, pictures left out."""
    parts = [output.get("text", ""), output.get("ename", ""), output.get("evalue", ""), *output.get("traceback", [])]
    parts += [str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/")]
    return "\n".join(parts)


def problems(outputs, cell):
    """outputs of a cell -> sentences that say what must not be stored."""
    errors = [o for o in outputs if o["output_type"] == "error"]
    if errors and "raises-exception" not in cell.tags:
        yield "\n".join(errors[0]["traceback"])
    if not errors and "raises-exception" in cell.tags:
        yield "it is tagged `raises-exception` and raised nothing"
    for output in outputs:
        text = _texts(output)
        if output.get("name") == "stderr" and "stderr" not in cell.tags:
            yield f"stderr, which only cells tagged `stderr` may write:\n{text}"
        elif path := next((p for p in _machine_paths() if p in text), None):
            yield f"the output holds a path of this machine: {path}"
        if "\x1b" in text:
            yield "the output holds terminal colour codes"
        if "varies" not in cell.tags and (found := ADDRESS.search(text)):
            yield f"the output holds an address, {found[0]}: end with `_ = …`, or give the class a `__repr__`"


def _machine_paths():
    paths = {ROOT, Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(sys.base_prefix)}
    of_systems = [f"/{name}/" for name in ("home", "Users", "root", "tmp")] + [":\\Users\\"]
    return [str(p) + "/" for p in sorted(paths) if len(p.parts) > 2] + of_systems


class _Bare(ast.NodeTransformer):
    """Leaves out what prints nothing where it holds: the layout of docstrings and, on demand, assertions."""

    def __init__(self, assertions):
        self.assertions = assertions

    def visit_Assert(self, node):
        return node if self.assertions else None

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = " ".join(node.value.value.split())
        return self.generic_visit(node)


def meaning(source, *, assertions=True):
    """source of a code cell -> text that comments and layout do not change; assertions=False: nor do assertions"""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # on purpose, or a magic: then every character counts
        return source
    return ast.dump(_Bare(assertions).visit(tree))


def _code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def _takes_over(cell, before):
    """Give a cell the outputs of another."""
    cell.outputs = before.outputs
    for output in cell.outputs:
        if output["output_type"] == "execute_result":
            output["execution_count"] = cell.execution_count


def keep_varying(notebook, path):
    """Give the cells tagged `varies` their stored outputs back, unless code that leads to any of them has changed."""
    pairs = list(zip(_code(notebook), _code(nbformat.read(path, 4)) if path.exists() else [], strict=False))
    varying = ["varies" in c.metadata.get("tags", ()) for c in _code(notebook)]
    last = max((i for i, varies in enumerate(varying, 1) if varies), default=0)
    if len(pairs) >= last and all(
        meaning(new.source, assertions=False) == meaning(old.source, assertions=False)
        and new.metadata == old.metadata
        and old.execution_count
        for new, old in pairs[:last]
    ):
        for (new, old), varies in zip(pairs, varying, strict=False):
            if varies:
                _takes_over(new, old)


def keep_all(notebook, path):
    """Give every code cell its stored outputs; a cell whose code has changed is a BuildError."""
    new, old = _code(notebook), _code(nbformat.read(path, 4)) if path.exists() else []
    if len(new) != len(old):
        raise BuildError(f"{path.name}: {len(old)} code cells are stored, the source has {len(new)}: build it")
    for number, (cell, before) in enumerate(zip(new, old, strict=True), 1):
        named = any(o["output_type"] == "error" for o in before.outputs) and cell.source != before.source
        if named or meaning(cell.source) != meaning(before.source) or cell.metadata != before.metadata:
            raise BuildError(f"{path.name}: code cell {number} is another one now: build it\n{_numbered(cell.source)}")
        cell.execution_count = before.execution_count
        _takes_over(cell, before)


def unsolved(notebook):
    """The check lines of a solved notebook that are not green."""
    text = "\n".join(_texts(o) for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    return [line for line in text.splitlines() if line.startswith(("❌", "⬜"))]


# ----------------------------------------------------------------------------------------------------- build and check


def targets(source):
    """path of a source -> [(cells, path of a notebook)] for the learner's and, where it exists, the solved one."""
    cells, folder = read_source(source), source.parents[1]
    both = [(learner_cells(cells), folder / f"{source.stem}.ipynb")]
    if chosen := solved_cells(cells):
        both.append((chosen, folder / "solutions" / f"{source.stem}.ipynb"))
    return both


def build(source, *, refresh=False, text=False):
    """Make the notebooks of one source; nothing is written unless all of it is right. text: run nothing."""
    made = []
    for cells, path in targets(source):
        notebook = skeleton(cells)
        if text:
            keep_all(notebook, path)
            made.append((path, _written(notebook)))
            continue
        times = execute(notebook, cells, source.parents[1], source.name)
        if path.parent.name == "solutions" and (lines := unsolved(notebook)):
            raise BuildError(f"{source.name}: the solutions do not pass:\n" + "\n".join(lines))
        if not refresh:
            keep_varying(notebook, path)
        made.append((path, _written(notebook)))
        _print_times(path, times)
    for path, text in made:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def _written(notebook):
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def _print_times(path, times):
    total = sum(s for s, _ in times)
    slow = ", ".join(f"{s:.1f} s at line {line}" for s, line in sorted(times, reverse=True)[:3] if s > 1)
    print(f"{path.parent.name}/{path.name}: {total:.1f} s in {len(times)} cells" + (f" ({slow})" if slow else ""))
    if total > LIMIT_S:
        print(f"  longer than the limit of {LIMIT_S} s in the quick profile")


def disagreements(folder):
    """Folder of the notebooks -> what is missing, stale or not in order; runs nothing."""
    expected = set()
    for source in sorted((folder / "src").glob("*.py")):
        try:
            both = targets(source)
        except BuildError as error:
            yield str(error)
            continue
        expected |= {path for _, path in both}
        for cells, path in both:
            yield from (f"{path.relative_to(folder)}: {what}" for what in _stale(cells, path))
    for path in {*folder.glob("*.ipynb"), *(folder / "solutions").glob("*.ipynb")} - expected:
        yield f"{path.relative_to(folder)}: has no source"


def _stale(cells, path):
    if not path.exists():
        yield "not built"
        return
    stored, wanted = nbformat.read(path, 4), skeleton(cells)
    bare = copy.deepcopy(stored)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    if bare != wanted:
        yield "differs from its source; build it"
        return
    for node, cell in zip(stored.cells, cells, strict=True):
        if cell.kind == "code":
            if not node.execution_count:
                yield f"line {cell.line} of the source: not executed"
            yield from (f"line {cell.line} of the source: {what}" for what in problems(node.outputs, cell))
    if path.parent.name == "solutions":
        yield from unsolved(stored)


def chosen(sources, words):
    """paths of sources, beginnings of their names -> those meant; a whole name means that one and no deeper one"""
    whole = [w for w in words if any(s.stem == w for s in sources)]
    rest = tuple(w for w in words if w not in whole)
    return [s for s in sources if not words or s.stem in whole or s.name.startswith(rest)]


def start(name, folder):
    """Make the files of a new notebook and build it; -> the exit status."""
    try:
        made = new_notebook.make(name, folder.parent)
    except ValueError as error:
        print(error)
        return 1
    print("\n".join(path.relative_to(folder.parent).as_posix() for path in made))
    failed = main([name], folder)
    print(new_notebook.LEFT)
    return failed


def main(argv=None, folder=ROOT / "notebooks"):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "which", nargs="*", metavar="NN", help="beginnings of names, or whole ones; all if none is given"
    )
    parser.add_argument("--refresh", action="store_true", help="renew the outputs of cells tagged `varies`")
    parser.add_argument("--text", action="store_true", help="text, comments and layout only: keep outputs, run nothing")
    parser.add_argument(
        "--new", metavar="NN_topic", help="make the files of a new notebook, and build it; NN_topic_deeper too"
    )
    parser.add_argument("--check", action="store_true", help="compare sources and notebooks, run nothing")
    args = parser.parse_args(argv)
    if args.new:
        return start(args.new, folder)
    if args.check:
        found = list(disagreements(folder))
        print("\n".join(found) or "sources and notebooks agree")
        return int(bool(found))
    which = tuple(w for w in args.which if w != "build")
    sources = chosen(sorted((folder / "src").glob("*.py")), which)
    if not sources:
        print(f"no source in {folder.name}/src begins with {', '.join(which) or 'anything'}")
        return 1
    failed = False
    for source in sources:
        try:
            build(source, refresh=args.refresh, text=args.text)
        except BuildError as error:
            failed = True
            print(f"FAILED {error}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
