"""Notebook 15 on folders of strangers, against PyTorch's transfer-learning tutorial with the network that it chose.

Ours are the code cells of the notebook itself, run one after the other until a model is kept; only FOLDER and SEED are
set, and all of their seconds count: reading every file, looking for faults, judging two networks, figures. Theirs is
the tutorial's loop on the same training pictures: files decoded at every visit, random crop and mirror, 224 pixels,
batches of 4, all parameters, SGD 1e-3 with momentum 0.9, a tenth of that after 7 epochs, the epoch of the best
validation accuracy kept. Of its 25 epochs the first ``EPOCHS`` are run, with 91 % of the sum of its rates; its seconds
are also given as 25 epochs take. Both are asked for the same test pictures, in one process, one after the other.
"""

import contextlib
import copy
import io
import time
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sftlib import runtime
from sftlib.backbones import load_backbone
from sftlib.metrics import Interval, compare
from sftlib.model import LinearHead, Model
from sftlib.training import predict
from tools.experiments.own_folders import FOLDERS, folder
from tools.source import read_source

SEEDS = range(3)
NOTEBOOK = runtime.ROOT / "notebooks" / "src" / "15_your_own_pictures.py"
KEPT = "## How good is it?"  # the text before which a model is kept
EPOCHS, OF, SIDE, BATCH = 8, 25, 224, 4  # of the tutorial


def settings():
    """The folders"""
    return [{"folder": name} for name in FOLDERS]


def run(setting, seed):
    """One row: accuracies on the same test pictures, in [0, 1], and seconds"""
    return compared(folder(setting["folder"]), seed)


def compared(root: Path, seed: int, *, epochs: int = EPOCHS, **changed) -> dict:
    """A folder -> the row of one seed; ``changed``: settings of the notebook"""
    found, ours_s = notebook(root, until=KEPT, SEED=seed, **changed)
    data, truth = found["data"], found["truth"]
    said = torch.cat([z.argmax(1) for z, _ in predict(found["model"], found["batches"](data.test))])
    theirs, theirs_s = tutorial(root, data, found["name"], seed=seed, epochs=epochs)
    return {
        "network": found["name"], "kept": found["kept"], "trained_on": len(data.train), "tested": len(truth),
        "ours": round((said == truth).double().mean().item(), 4),
        "theirs": round((theirs == truth).double().mean().item(), 4),
        "ours_s": round(ours_s, 1), "theirs_s": round(theirs_s, 1), "theirs_25_s": round(theirs_s * OF / epochs, 1),
    }  # fmt: skip


# --- ours: the notebook's own cells --------------------------------------------------------------------------------


def notebook(root: Path | None, *, until: str = "", timed: dict | None = None, **changed) -> tuple[dict, float]:
    """Run the notebook's code on a folder, up to the text ``until`` -> its variables, and seconds without the imports

    ``changed``: settings in place of its own. timed: gets the seconds of each cell, by the line where it begins.
    """
    found, seconds, told = {"__name__": "notebook"}, 0.0, io.StringIO()
    matplotlib.use("Agg")
    for number, cell in enumerate(cells(until)):
        began = time.perf_counter()
        with contextlib.redirect_stdout(told):
            exec(compile(cell.source, f"{NOTEBOOK.name}, line {cell.line}", "exec"), found)  # noqa: S102
        spent = time.perf_counter() - began
        if timed is not None:
            timed[cell.line] = spent
        if number == 1:
            found |= {"FOLDER": root and str(root)} | changed
        seconds += spent if number > 1 else 0
    found["plt"].close("all")
    return found | {"said": told.getvalue()}, seconds


def cells(until: str) -> list:
    """The code cells before the text ``until``, the exercises left out"""
    found = []
    for cell in read_source(NOTEBOOK):
        if until and cell.kind == "markdown" and until in cell.source:
            return found
        if cell.kind == "code" and "exercise" not in cell.tags:
            found.append(cell)
    if until:
        raise ValueError(f"{NOTEBOOK.name} has no text with {until!r}; expected the one before which a model is kept")
    return found


# --- theirs --------------------------------------------------------------------------------------------------------


class Files(Dataset):
    """Files of a part, decoded and transformed at every visit, as torchvision's ImageFolder does"""

    def __init__(self, root: Path, part, transform):
        self.paths, self.labels, self.transform = [root / name for name in part.names], part.labels, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            return self.transform(in_8_bits(image).convert("RGB")), self.labels[i]


def in_8_bits(image: Image.Image) -> Image.Image:
    """ImageFolder makes 16-bit pictures white; they are given as they should be"""
    return image.point(lambda v: v / 257).convert("L") if image.mode.startswith("I") else image


def tutorial(root: Path, data, name: str, *, seed: int, epochs: int) -> tuple[torch.Tensor, float]:
    """The tutorial's loop, its first ``epochs`` -> predicted classes of the test pictures (N,), seconds of training"""
    runtime.seed_everything(seed)
    f = load_backbone(name, size=SIDE)
    model = Model(f, LinearHead(f.feature_dim, len(data.classes)))
    normalise = v2.Lambda(lambda picture: f.preprocess.normalise(picture[None])[0])
    changes = {
        "train": v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.PILToTensor(), normalise]),
        "val": v2.Compose([v2.Resize(256), v2.CenterCrop(SIDE), v2.PILToTensor(), normalise]),
    }
    parts = {part: Files(root, getattr(data, part), changes[part]) for part in changes}
    loaders = {part: DataLoader(files, batch_size=BATCH, shuffle=True) for part, files in parts.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, state, began = -1.0, None, time.perf_counter()
    for _ in range(epochs):
        model.train()
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in loaders["val"])
        if hits > best:
            best, state = hits, copy.deepcopy(model.state_dict())
    seconds = time.perf_counter() - began
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        test = DataLoader(Files(root, data.test, changes["val"]), batch_size=BATCH)
        return torch.cat([model(x).argmax(1) for x, _ in test]), seconds


# --- read ----------------------------------------------------------------------------------------------------------


def difference(rows: list[dict]) -> Interval:
    """Rows of the table -> ours − theirs over folders and seeds, paired; three rows at least"""
    table = {name: [float(row[name]) for row in rows] for name in ("ours", "theirs")}
    return compare(table)[0].interval


def ratio(rows: list[dict]) -> float:
    """Seconds of the tutorial's 25 epochs over ours, all rows together"""
    return sum(float(row["theirs_25_s"]) for row in rows) / sum(float(row["ours_s"]) for row in rows)
