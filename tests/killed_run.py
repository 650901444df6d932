"""A small run with all that a checkpoint must hold. test_resume.py starts it in another process, and kills that.

python killed_run.py PATH [half]: goes on from PATH if it is there, writes it after every step and says so; waits after
step 8, for whoever kills it may be slow. With "half", the fifth write stops in the middle and waits.
"""

import io
import sys
from pathlib import Path

import torch
from helpers import D, K, tiny_model

from sftlib.datasets import PictureSplit, loader
from sftlib.datasets.augment import Chain, Crop, flip
from sftlib.losses import CenterLoss
from sftlib.schedules import warmup_cosine
from sftlib.training import Step, fit, load_checkpoint, save_checkpoint

EPOCHS, BATCHES = 3, 6


def pictures(n, seed):
    g = torch.Generator().manual_seed(seed)
    split = torch.randint(256, (n, 3, 11, 11), generator=g, dtype=torch.uint8), torch.randint(K, (n,), generator=g)
    return PictureSplit(*split, ("",) * n)


def everything():
    """-> model with BatchNorm and dropout, optimizer with momentum, augmenting loader, feature loss with state"""
    torch.manual_seed(5)
    model, feature_loss = tiny_model(), CenterLoss(K, D)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    preprocess = lambda x: x.float() / 255  # noqa: E731
    batches = loader(
        pictures(29, seed=1), preprocess, batch_size=5, shuffle=True, augment=Chain((Crop(7), flip)),
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    return model, optimizer, batches, feature_loss


def records(model, optimizer, batches, feature_loss, resume=None):
    val = loader(pictures(11, seed=2), batches.make.function)
    return fit(
        model, batches, optimizer, epochs=EPOCHS, feature_loss=feature_loss, feature_weight=0.3, resume=resume,
        val_loader=val, schedule=warmup_cosine(EPOCHS * BATCHES, warmup=4),
    )  # fmt: skip


def resumed(path):
    """-> the run's parts and its records, from the checkpoint on"""
    model, optimizer, batches, feature_loss = everything()
    found = load_checkpoint(path, model, optimizer, feature_loss=feature_loss)
    return (model, optimizer, batches, feature_loss), records(model, optimizer, batches, feature_loss, found)


def write_half(state, file):
    """In place of torch.save: half of the bytes, then nothing more."""
    whole = io.BytesIO()
    SAVE(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    print("half", flush=True)
    sys.stdin.read()


SAVE = torch.save

if __name__ == "__main__":
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    if path.exists():
        (model, optimizer, *_), going = resumed(path)
    else:
        parts = everything()
        model, optimizer, going = *parts[:2], records(*parts)
    half = sys.argv[2:] == ["half"]
    for count, record in enumerate(r for r in going if isinstance(r, Step)):
        if half and count == 4:
            torch.save = write_half
        save_checkpoint(path, model, optimizer, step=record)
        print(record.step, flush=True)
        if record.step == 8 and not half:
            sys.stdin.read()
