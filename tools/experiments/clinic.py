"""What is it worth to mend a mistake? The fifteen of notebook 09, each as written and mended, by the notebook's cells.

The functions are those of notebooks/src/09_bug_clinic.py: what the learner reads is what was run. A case gives a
script, its number of epochs, and what is measured afterwards. Rates and epochs of three cases (preprocessing,
frozen_by_attribute, batchnorm) were changed once after a look at what came out, the others not. All cases use 64
pixels; SqueezeNet's maps up to stage3 are computed once. A seed draws the labelled pictures, the head, the order of the
batches and, of the language models, the data.
"""

import ast
from functools import cache
from pathlib import Path

from tools import source

SEEDS = range(5)
SOURCE = Path(__file__).resolve().parents[2] / "notebooks" / "src" / "09_bug_clinic.py"
CASES = (
    "preprocessing", "validation", "copies", "head_replaced", "frozen_by_attribute", "frozen_too_late", "batchnorm",
    "no_eval", "dropout", "softmax_twice", "never_zeroed", "bfloat16", "never_ends", "shifted_twice", "prompt_learned",
)  # fmt: skip


def settings():
    """Each case twice."""
    return [{"case": case, "version": version} for case in CASES for version in ("as written", "mended")]


def run(setting, seed):
    """One row: what the case measures, mostly an accuracy in [0, 1]."""
    case = cells()[setting["case"]]
    script, epochs, measure = case(setting["version"] == "mended", seed)
    for _ in range(epochs):
        for batch in script["train_loader"]:
            script["step"](batch)
    return {"measured": round(measure(), 4)}


@cache
def cells():
    """-> what the notebook's cells define: imports, functions, classes, and names in capitals"""
    names = {"__name__": "notebook_09"}
    for cell in source.read_source(SOURCE):
        if cell.kind == "code" and "exercise" not in cell.tags:
            tree = ast.parse(cell.source)
            tree.body = [node for node in tree.body if _defines(node, "setup" in cell.tags)]
            exec(compile(tree, SOURCE.name, "exec"), names)
    return names


def _defines(node, setup):
    if isinstance(node, ast.Assign) and not setup:
        targets = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        return all(name.isupper() for name in targets)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign)
