"""What tools/train.py keeps of its epochs, and does at their end: calibrate, and look at the test pictures, once."""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from sftlib.datasets import Splits, loader
from sftlib.datasets.loading import Loader
from sftlib.datasets.on_device import to_device
from sftlib.metrics import expected_calibration_error, temperature
from sftlib.model import Flipped, Model
from sftlib.model.files import load_safely, save_atomically
from sftlib.runtime import Group, Precision
from sftlib.training import Parallel, Shards, predict
from tools.run_loop import write

COLUMNS = ("epoch", "train_loss", "train_accuracy", "train_n", "val_loss", "val_accuracy", "val_n")
TEST_COLUMNS = ("epoch", "test_loss", "test_accuracy", "test_n")


def best(log: list[list], by: str) -> list:
    """The row of the highest accuracy on the validation pictures, of equal ones that of the lowest loss; or by loss"""
    return max(log, key=(lambda row: -row[4]) if by == "loss" else (lambda row: (row[5], -row[4])))


def is_over(log: list[list], options: argparse.Namespace) -> bool:
    """Whether all epochs are done, or so many as --patience says without a better one"""
    if not log or options.patience is None:
        return len(log) >= options.epochs
    since = log[-1][0] - best(log, options.best_by)[0]
    return since >= options.patience or len(log) >= options.epochs


def outputs(model: Model, batches: Loader, group: Group, precision: Precision, *, flips: bool) -> tuple[Tensor, Tensor]:
    """-> logits (N, K) and labels (N,) of all pictures, on the CPU, the same in every worker"""
    network = Flipped(model) if flips else model
    mine = [(z.cpu(), y.cpu()) for z, y in predict(network, Shards(batches, group), precision=precision)]
    found = [pair for some in group.gathered(mine) for pair in some]
    return torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])


def calibrate(options, group: Group, model: Parallel, val: Loader, precision: Precision, say: Callable) -> None:
    """Divide g by the temperature that the validation pictures ask for, in ``model`` and in OUT/best.pt, once"""
    path = options.out / "best.pt"
    state = load_safely(path)
    if "temperature" in state["settings"]:  # what follows in this run was stopped
        return
    z, y = outputs(model, val, group, precision, flips=False)
    T = temperature(z, y)
    with torch.no_grad():
        for parameter in (model.head.weight, model.head.bias):
            parameter.div_(T)
    errors = [expected_calibration_error((z / scale).softmax(1), y) for scale in (1, T)]
    say(
        "temperature {:.3f}: calibration error on the validation pictures {:.3f}, before {:.3f}".format(
            T, *errors[::-1]
        )
    )
    if group.leads:
        head = {f"head.{name}": value.detach().cpu() for name, value in model.head.state_dict().items()}
        settings = state["settings"] | {"temperature": T}
        save_atomically(state | {"model": state["model"] | head, "settings": settings}, path)


def test(
    options, group: Group, model: Parallel, data: Splits, val: Loader, loss: Callable, precision: Precision,
    say: Callable,
) -> None:  # fmt: skip
    """OUT/test.csv, once: what the weights of the best epoch do on pictures that chose nothing"""
    path, state = options.out / "test.csv", load_safely(options.out / "best.pt")
    model.load_state_dict(state["model"])
    if options.temperature:
        calibrate(options, group, model, val, precision, say)
    if path.exists() or len(data.test) < group.world:
        say("test: done before" if path.exists() else "test: too few pictures in that part")
        return
    found = to_device(data.test, group.device)
    batches = loader(found, model.backbone.preprocess, batch_size=max(options.batch, group.world))
    z, y = outputs(model, batches, group, precision, flips=options.flips)
    right = (z.argmax(1) == y).double().mean().item()
    row = [best(state["settings"]["log"], options.best_by)[0], loss(z, y).item(), right, len(y)]
    say("test, with the weights of epoch {}: loss {:.4f} accuracy {:.4f} (n {})".format(*row))
    write(path, [row], group, TEST_COLUMNS)
