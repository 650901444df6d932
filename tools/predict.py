"""Name the class of pictures with what tools/train.py has trained.

    python tools/predict.py RUN PICTURES > predicted.csv
    python tools/predict.py RUN PICTURES --out predicted.csv
    python tools/predict.py RUN PICTURES --flips       the mean of a picture and its mirror image: twice the computing

RUN is the folder of a run: its best.pt holds the weights of its best epoch, the names of the classes and how pictures
are prepared. PICTURES is one picture, or a folder with pictures in whatever folders below it. The CSV has a row for
every picture: file (its path below PICTURES), class (the most probable one), and a column for each class, named by it,
with its probability. Files that cannot be read are named on the screen, have no row, and make the exit code 1; 2 means
that nothing could be predicted.
"""

import argparse
import contextlib
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import torch

from sftlib import runtime
from sftlib.datasets.decode import decode, in_threads, read_bytes
from sftlib.datasets.folder_walk import Problems, pictures_below, shown
from sftlib.model import Flipped, Model
from sftlib.strategies import load_trained

FIRST = ("file", "class")


def found(pictures: Path) -> tuple[Path, list[Path], dict[str, str]]:
    """One picture or a folder -> the folder that names are relative to, the files, and what is wrong with others"""
    if pictures.is_file():
        return pictures.parent, [pictures], {}
    if not pictures.is_dir():
        raise ValueError(f"got {shown(pictures)}, which does not exist; expected a picture, or a folder with pictures")
    problems = Problems(pictures)
    files = pictures_below(pictures, problems, [])
    if not files and not problems.reasons:
        raise ValueError(f"got {shown(pictures)}, in which no file has a picture's suffix; expected pictures")
    return pictures, files, problems.reasons


def read(path: Path, size: int | None) -> torch.Tensor | str:
    """A file -> its picture uint8 (3, H, W), or what is wrong with it"""
    try:
        return torch.from_numpy(decode(read_bytes(path), size)).permute(2, 0, 1)
    except ValueError as error:
        return str(error)


@torch.inference_mode()
def predicted(model: Model, pictures: list[torch.Tensor], *, flips: bool = False) -> torch.Tensor:
    """n pictures uint8 (3, h, w), each of its own size -> probabilities (n, K) on the CPU"""
    where = next(model.parameters()).device
    x = torch.cat([model.backbone.preprocess(picture[None].to(where)) for picture in pictures])
    network = Flipped(model) if flips else model
    return network(x).double().softmax(1).cpu()


def rows(model: Model, classes: list[str], root: Path, files: list[Path], size: int | None, batch: int, broken: dict,
         *, flips: bool = False) -> Iterator[list]:  # fmt: skip
    """(file, class, probability of each class) of every file that can be read; what is wrong goes to ``broken``"""
    for start in range(0, len(files), batch):
        paths = files[start : start + batch]
        pictures = list(zip(paths, in_threads(lambda p: read(p, size), paths), strict=True))
        broken |= {shown(p.relative_to(root)): reason for p, reason in pictures if isinstance(reason, str)}
        pictures = [(shown(p.relative_to(root)), picture) for p, picture in pictures if not isinstance(picture, str)]
        outputs = predicted(model, [picture for _, picture in pictures], flips=flips) if pictures else ()
        for (name, _), p in zip(pictures, outputs, strict=True):
            if p.isfinite().all():
                yield [name, classes[int(p.argmax())], *(f"{value:.6f}" for value in p.tolist())]
            else:
                broken[name] = "the network's output for it is not finite"


@contextlib.contextmanager
def written(out: Path | None) -> Iterator[TextIO]:
    """A file to write to that becomes ``out`` when all is written, and leaves it as it was otherwise; None: the screen

    ValueError where its folder is missing.
    """
    if out is None:
        with open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="") as file:
            yield file
        return
    if out.is_dir() or not out.resolve().parent.is_dir():
        what = "is a folder" if out.is_dir() else "lies in no folder that is there"
        raise ValueError(f"got --out {shown(out)}, which {what}; expected a file, such as predicted.csv")
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line's words -> options"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, with best.pt")
    parser.add_argument("pictures", type=Path, help="a picture, or a folder with pictures")
    parser.add_argument("--out", type=Path, help="the CSV file; default: the screen")
    parser.add_argument("--batch", type=int, default=32, help="pictures at once")
    parser.add_argument("--flips", action="store_true", help="look at each picture and at its mirror image")
    options = parser.parse_args(words)
    if options.batch < 1:
        parser.error(f"argument --batch: got {options.batch}; expected at least 1")
    return options


def main(words: list[str] | None = None) -> int:
    """Run the script with these words, by default those of the command line; returns the exit code"""
    options = arguments(words)
    model, classes, size = load_trained(options.run / "best.pt")
    model.to(runtime.device())
    root, files, broken = found(options.pictures)
    columns = [*FIRST, *(f"probability of {c}" if c in FIRST else c for c in classes)]
    with written(options.out) as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows(model, classes, root, files, size, options.batch, broken, flips=options.flips))
    for name, reason in sorted(broken.items()):
        print(f"predict.py: {name}: {reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, MemoryError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("predict.py: stopped; a file given with --out is as it was", file=sys.stderr)
        sys.exit(130)
