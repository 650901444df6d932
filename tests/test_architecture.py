"""The shape of the code: who imports whom, sizes, docstrings, environment variables, and what no file may hold."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "sftlib").rglob("*.py"))

# What each room of sftlib, a module or a package, imports from the others: exactly, leaves first, arrows only upwards
EDGES = {
    "runtime": set(),
    "environment": {"runtime"},
    "inputs": set(),
    "batches": set(),
    "generators": set(),
    "metrics": {"inputs"},
    "losses": {"inputs"},
    "generation": {"inputs", "runtime"},
    "schedules": {"inputs"},
    "search": set(),
    "results": {"runtime"},
    "adaptation": {"inputs"},
    "model": {"runtime"},
    "backbones": {"model", "runtime"},
    "objective": {"batches", "runtime"},
    "arithmetic": {"batches", "model", "objective", "runtime"},
    "datasets": {"batches", "inputs", "runtime"},
    "guards": {"adaptation", "batches", "inputs", "metrics", "model", "objective", "runtime"},
    "parallel": {"adaptation", "datasets", "inputs", "model", "objective", "runtime"},
    "features": {"batches", "inputs", "model", "runtime"},
    "selection": {"features", "inputs"},
    "strategies": {"adaptation", "backbones", "datasets", "features", "model"},
    "inspection": {"datasets", "inputs"},
    "explaining": {"inputs", "model"},
    "export": {"backbones", "datasets", "inputs", "model"},
    "doctor": {"adaptation", "batches", "generators", "runtime"},
    "training": {
        "adaptation",
        "arithmetic",
        "batches",
        "generators",
        "guards",
        "inputs",
        "metrics",
        "model",
        "objective",
        "parallel",
        "runtime",
    },
    "plotting": set(),
    "widgets": {"plotting"},
    "checks": {"doctor", "losses"},
}
# The same within training/
TRAINING = {
    "step": set(),
    "parts": {"step"},
    "states": set(),
    "records": set(),
    "run": {"parts", "records", "states", "step"},
    "checkpoints": {"records", "run", "states"},
    "evaluation": set(),
    "loop": {"checkpoints", "evaluation", "parts", "records", "run", "step"},
}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 40


def imported(tree, level=1):
    """syntax tree -> (modules of sftlib, or of one of its packages, that it imports; whether it imports a star)"""
    names, star = set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            star |= any(alias.name == "*" for alias in node.names)
            assert not node.level, "imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [n.split(".") for n in names]
    return {part[level] for part in parts if part[0] == "sftlib" and len(part) > level}, star


def faults(source, owner):
    """Python source, first-level module that holds it -> sentences on what breaks the rules."""
    tree = ast.parse(source)
    names, star = imported(tree)
    yield from (f"{owner} may not import {name}" for name in sorted(names - EDGES[owner] - {owner}))
    if star:
        yield "import *"
    if (lines := source.count("\n")) > MOST_LINES:
        yield f"{lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"line {node.lineno}: global"
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION:
            yield f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        if reads_environment(node) and owner != "runtime":
            yield f"line {node.lineno}: only runtime reads environment variables"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield f"{node.name} has no docstring"


def reads_environment(node):
    """Does this node of a syntax tree name os.environ or os.getenv?"""
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(a.name in ("environ", "getenv") for a in node.names)
    return isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_keeps_the_rules(path):
    inside = path.relative_to(ROOT / "sftlib")
    source = path.read_text(encoding="utf-8")
    if inside.parts == ("__init__.py",):
        assert not ast.parse(source).body[1:], "sftlib itself re-exports nothing"
        return
    assert list(faults(source, inside.parts[0].removesuffix(".py"))) == []


@pytest.mark.parametrize(
    "source, words",
    [
        ("from sftlib.model import Model", "losses may not import model"),
        ("import sftlib.training", "losses may not import training"),
        ("from sftlib import metrics", "losses may not import metrics"),
        ("def _f():\n    from sftlib.runtime import device", "losses may not import runtime"),
        ("from math import *", "import *"),
        ("def _f():\n    global x\n    x = 3", "line 2: global"),
        ("x = 2\n" * 301, "301 lines"),
        ("def _f():\n" + "    x = 2\n" * 40, "_f has 41 lines"),
        ("import os\nx = os.environ['HOME']", "line 2: only runtime"),
        ("import os\nx = os.getenv('HOME')", "line 2: only runtime"),
        ("from os import environ", "line 1: only runtime"),
        ("def f():\n    return 3", "f has no docstring"),
        ("class C:\n    x = 3", "C has no docstring"),
    ],
)
def test_a_broken_rule_is_seen(source, words):
    assert any(words in fault for fault in faults(source, "losses"))


def test_what_is_allowed_is_not_a_fault():
    source = "from sftlib.features import extract\nfrom sftlib.inputs import whole\nimport torch\n"
    source += "def f():\n    '''z (N, D)'''\n" + "    x = 2\n" * 38
    assert list(faults(source, "selection")) == []


@pytest.mark.parametrize("edges", [EDGES, TRAINING], ids=["sftlib", "training"])
def test_imports_have_no_cycle(edges):
    order = list(edges)
    assert all(order.index(name) < order.index(module) for module, names in edges.items() for name in names)


def rooms(folder, level):
    """A package's folder -> name of each module or package in it -> those of its neighbours that it imports"""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).parts[0].removesuffix(".py")
        if name != "__init__":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found.setdefault(name, set()).update(imported(tree, level)[0] - {name})
    return found


def test_every_edge_is_used_and_listed():
    assert rooms(ROOT / "sftlib", 1) == EDGES


def test_every_edge_within_training_is_used_and_listed():
    found, own = rooms(ROOT / "sftlib" / "training", 2), set(TRAINING)
    assert {name: names & own for name, names in found.items()} == TRAINING


# ---------------------------------------------------------------------------------------------- other processes


def wordless(source):
    """Python source -> lines of assertions on another process that would not say what it wrote"""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert) and node.msg is None:
            names = {part.attr for part in ast.walk(node.test) if isinstance(part, ast.Attribute)}
            if names & {"returncode", "stdout", "stderr"}:
                yield node.lineno


@pytest.mark.parametrize("folder", ["tests", "tools", "benchmarks", "notebooks/src"])
def test_an_assertion_on_another_process_says_what_it_wrote(folder):
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths and {p.name: lines for p in paths if (lines := [*wordless(p.read_text(encoding="utf-8"))])} == {}


def test_an_assertion_without_words_is_seen():
    source = "assert a.returncode == 0\nassert x and 'b' in a.stderr\nassert a.stdout, a.stderr\nassert b.code"
    assert list(wordless(source)) == [1, 2]


# ------------------------------------------------------------------------------------------- what no file may hold

# In pieces, so that this file does not hold them
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "down" + "load.pytorch.org/whl",
    "ana" + "conda.org",
]
MACHINE = re.compile(
    r"(?<![\w.~-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "tm" + "p", "ho" + "me", "Us" + "ers"]) + r")/\w"
    r"|[A-Z]:\\+Users\\+\w|/site-" + r"packages/|/index/" + r"simple\b"
)
PICTURE = re.compile(r'"image/[a-z+]+": "[^"]*"')


def tracked():
    """The text files under version control; of a copy without git, those of the project's own folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True, encoding="utf-8"
        )
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = ("sftlib", "tests", "tools", "notebooks", "benchmarks", "data")
        paths = [
            p for f in folders for p in (ROOT / f).rglob("*") if "cache" not in p.parts and "__pycache__" not in p.parts
        ]
    for path in paths:
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield path, PICTURE.sub("", content.decode("utf-8"))


def forbidden(text):
    """text -> host names of registries and paths of a machine in it."""
    return [host for host in HOSTS if host in text] + [m[0] for m in MACHINE.finditer(text)]


def test_no_file_names_a_machine_or_a_registry():
    found = {str(path.relative_to(ROOT)): what for path, text in tracked() if (what := forbidden(text))}
    assert found == {}


def test_machine_paths_and_registries_are_recognised():
    for text in (
        "see /ho" + "me/ann/x",
        "'/tm" + "p/a.png'",
        "https://py" + "pi.org/x",
        "C:\\Us" + "ers\\ann",
        "/wo" + "rk/a",
    ):
        assert forbidden(text), text
    for text in ("https://example.org/wo" + "rk/a", "frame/wo" + "rk/x", "notebooks/src", "the /tm" + "p folder"):
        assert not forbidden(text), text
