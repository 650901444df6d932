"""tools/train.py --check: what is odd about the pictures, their labels and the set-up, before anything is trained."""

from pathlib import Path

import torch
from torch.optim import Optimizer

from sftlib.datasets import Splits
from sftlib.datasets.loading import Loader
from sftlib.datasets.splits import PictureSplit
from sftlib.doctor import diagnose
from sftlib.features import extract, out_of_fold
from sftlib.inspection import Remark, Remarks, likely_label_errors, look_over
from sftlib.model import Model

L2, FOLDS = 0.1, 5  # of the probes that judge the labels
SERIOUS = ("copy in another class", "copy in another part")  # what makes numbers wrong; the rest is to be looked at


def report(
    root: Path | None, data: Splits, model: Model, optimizer: Optimizer, batches: Loader, val: Loader, plain: Loader
) -> int:
    """Print what was found -> 1 where it makes numbers wrong, else 0"""
    print(data)
    remarks = Remarks(suspected(data, model, plain))
    if isinstance(data.train, PictureSplit):
        seen = look_over(data, root)
        remarks = Remarks([*seen, *remarks], pictures=seen.pictures)
    print(remarks)
    preprocess = model.backbone.preprocess
    findings = diagnose(model, optimizer, train_loader=batches, val_loader=val, preprocess=preprocess)
    print(findings)
    return 1 if remarks.of(*SERIOUS) or findings.mistakes else 0


def suspected(data: Splits, model: Model, plain: Loader) -> list[Remark]:
    """Training pictures whose label is likely wrong, by probes on frozen features that did not see them"""
    z, y = extract(model.backbone, plain)
    if torch.bincount(y, minlength=len(data.classes)).min() < FOLDS:
        return []
    p = out_of_fold(z, y, num_classes=len(data.classes), folds=FOLDS, l2=L2)
    found = likely_label_errors(p, y)
    return [
        Remark("label", data.train.names[i], f"labelled {data.classes[y[i]]}, looks like {data.classes[k]}")
        for i, k in zip(found.rows.tolist(), found.instead.tolist(), strict=True)
    ]
