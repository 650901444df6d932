"""What tools/train.py and tools/sft.py share of a run: its bar and checkpoints, going on, tables, how it ends."""

import csv
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from sftlib.model.files import load_safely
from sftlib.runtime import Group
from sftlib.training import Checkpoint, Epoch, Step, load_checkpoint


def printed(line: str) -> None:
    """A line at once, above the bar of progress where there is one"""
    tqdm.write(line)
    sys.stdout.flush()


def seconds_left(began: float, done: int, remain: int) -> str:
    """As long as the epochs so far took -> minutes:seconds"""
    seconds = round((time.perf_counter() - began) / done * remain)
    return f"{seconds // 60}:{seconds % 60:02d}"


def write(path: Path, rows: list[list], group: Group, columns: Sequence[str]) -> None:
    """The table as a whole, in place of the one before; worker 0 writes"""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    if group.leads:
        write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """The file as a whole, in place of the one before"""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def require_free(out: Path, *, resume: bool, at_the_end: str) -> None:
    """ValueError where OUT holds a run that was not to be gone on from, or what another one left ``at_the_end``

    That would stay, and be taken for this run's.
    """
    last, left = out / "last.pt", out / at_the_end
    if out.exists() and not out.is_dir():
        raise ValueError(f"got --out {out}, which is a file; expected a folder, a new one or that of a run")
    if last.exists() and not resume:
        raise ValueError(f"{last} is there already: --resume goes on from it, another --out keeps it")
    if left.exists() and not last.exists():
        raise ValueError(
            f"{left} is there, of another run, whose last.pt is gone; expected a new folder: move it away, or choose "
            "another --out"
        )


def resumed(
    options, model: nn.Module, optimizer: Optimizer, settings: dict, rates: dict[str, float], require_same: Callable
) -> Checkpoint | None:
    """What OUT/last.pt holds, put into the objects given; None where there is none. ValueError for another run

    ``rates``: of each group of the optimizer, in place of those that the file holds. ``require_same(path, saved,
    settings)`` refuses another run.
    """
    path = options.out / "last.pt"
    if not path.exists():
        return None
    if not options.resume:
        raise ValueError(f"{path} is there already: --resume goes on from it, another --out keeps it")
    require_same(path, load_safely(path)["settings"], settings)
    found = load_checkpoint(path, model, optimizer, exact=False)
    for group in optimizer.param_groups:
        group["initial_lr"] = rates[group["name"]]
    settings["log"] += found.settings["log"]
    return found


def followed(
    records: Iterable[Step | Epoch], found: Checkpoint | None, *, epochs: int, batches: int, leads: bool,
    every: int | None, keep: Callable[[Step], object],
) -> Iterator[Epoch]:  # fmt: skip
    """The epochs of a run, its steps passed over: with a bar that says what is left, and ``keep(step)`` on the way"""
    done = 0 if found is None else found.epoch * batches + found.progress["batch"]
    silent = None if leads else True  # None: where nobody looks, in a file or a pipe, there is no bar
    with tqdm(total=epochs * batches, initial=done, unit="step", disable=silent, smoothing=0.05, leave=False) as bar:
        for record in records:
            if isinstance(record, Epoch):
                yield record
                continue
            bar.update()
            if every and record.step % every == 0:
                keep(record)


def ended(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a script's ``main`` and leave with its exit code: 2 and a word for what cannot be, 130 for Ctrl-C"""
    try:
        sys.exit(main())
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped; --resume goes on from RUN/last.pt, where there is one", file=sys.stderr)
        sys.exit(130)
