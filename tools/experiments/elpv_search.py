"""The search behind tools/experiments/elpv.py: which rate, loss, optimizer, start and depth?

    python -m tools.experiments.elpv_search        runs what is missing, adds rows to data/results/elpv_search.csv

Each candidate trains on four fifths of the published training part (1,574 cells, cut by a seed, stratified) and is
measured on the fifth that is left (394 cells: one cell is a quarter of a percent, and the standard error of an accuracy
of 0.85 is 0.018, so small differences say nothing). The test part is never looked at. At 160 pixels and over 6 epochs,
to be cheap. One training gives four rows: with the last epochs' weights averaged or not, with 1 view or 8 of each cell.
"""

import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from sftlib import results
from tools.experiments import elpv


def smooth_levels(logits, y):
    """The same with a tenth of the target spread over all levels"""
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def published_weights(logits, y):
    """logits (N, 4), y (N,) levels -> cross-entropy of *not surely functional*, unsure cells weighing less"""
    called = F.softplus(elpv.published_score(logits) * (1 - 2 * (y > 0).float()))
    return (elpv.WEIGHTS[y] * called).sum() / weights(y)


def weights(y):
    """y (N,) levels -> () the sum of the published weights, over which the loss is a mean"""
    return elpv.WEIGHTS[y].sum()


CHEAP = elpv.Recipe(side=160, epochs=6, averaged=2)
TOP = replace(CHEAP, cut="stage2")
SEARCH = [
    TOP,
    replace(TOP, lr=1e-3),
    replace(TOP, lr=1e-2),
    replace(TOP, probed=True),
    replace(TOP, optimizer=torch.optim.AdamW, lr=3e-4),
    replace(TOP, optimizer=torch.optim.AdamW, lr=1e-3),
    replace(TOP, loss=published_weights, terms=weights),
    replace(TOP, loss=smooth_levels),
    replace(CHEAP, cut="stage1"),
    CHEAP,
]
SEARCH_SEED = 1001


def described(recipe):
    """Recipe -> dict of texts for a table"""
    return {k: getattr(v, "__name__", v) for k, v in vars(recipe).items() if k not in ("views", "terms")}


def tried(recipe, seed):
    """One training of the search -> a row each for the ends (averaged or not) and the views (1 or 8)"""
    start = time.process_time()
    models = elpv.train(recipe, seed, "learn")
    minutes = round((time.process_time() - start) / 60, 2)
    for model, averaged in zip(models, (recipe.averaged, 1), strict=True):
        for views in (1, 8):
            p, y = elpv.predict(model, recipe, "val", views)
            loss = F.nll_loss(p.log(), y).item()
            about = {**described(recipe), "averaged": averaged, "views": views, "seed": seed}
            keep = ("weighted_accuracy", "accuracy", "balanced_accuracy", "certain_accuracy")
            found = {k: v for k, v in elpv.measures((p, y)).items() if k in keep}
            yield {**about, **{f"val_{k}": v for k, v in found.items()}, "val_loss": round(loss, 4), "minutes": minutes}


def search():
    """Run what is missing of SEARCH; rows go to data/results/elpv_search.csv as they finish."""
    path = results.folder() / "elpv_search.csv"
    for recipe in SEARCH:
        about = {k: str(v) for k, v in described(recipe).items() if k != "averaged"}
        if any(all(row[k] == v for k, v in about.items()) for row in results.read(path)):
            continue
        for row in tried(recipe, SEARCH_SEED):
            results.append(path, row)
            print(row, flush=True)


if __name__ == "__main__":
    search()
