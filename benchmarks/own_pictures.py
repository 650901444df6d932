"""Notebook 15 on folders of pictures against the loop of PyTorch's transfer-learning tutorial, with the same network.

    python benchmarks/own_pictures.py                     the three folders of tools/experiments/own_folders.py
    python benchmarks/own_pictures.py FOLDER [FOLDER ...] yours, with one folder a class
    python benchmarks/own_pictures.py --whole [FOLDER]    every cell of the notebook, from top to bottom: its seconds

Ours are the notebook's own cells, run from the first to the one that keeps a model, in its quick profile; theirs is the
tutorial's loop on the same pictures with the network that the notebook chose. tools/experiments/own_pictures.py, which
does it, says what each is. --epochs 25 runs the tutorial whole; with fewer its seconds are those measured times
25 / epochs. Prints a row a folder and seed, then the interval of the difference of accuracies, and last the ratio of
seconds. Run it on a quiet machine.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools stand beside this folder

from tools.experiments import own_pictures  # noqa: E402
from tools.experiments.own_folders import FOLDERS, folder  # noqa: E402


def whole(folders: list[Path]) -> None:
    """Every cell on each folder; what the notebook printed where it failed"""
    for root in folders:
        timed: dict[int, float] = {}
        found, seconds = own_pictures.notebook(root, timed=timed)
        slow = sorted(timed, key=timed.get)[-3:]
        cells = ", ".join(f"line {line} {timed[line]:.0f} s" for line in reversed(slow))
        print(f"{root.name}: {len(found['data'].train)} training pictures, {seconds:.0f} s; slowest cells: {cells}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=own_pictures.EPOCHS, help="of the tutorial's 25")
    parser.add_argument("--network", help="one of the notebook's CANDIDATES; default: as it chooses")
    parser.add_argument("--whole", action="store_true", help="the notebook alone, all cells")
    options = parser.parse_args()
    folders = [path.expanduser().absolute() for path in options.folders] or [folder(name) for name in FOLDERS]
    if options.whole:
        return whole(folders)
    rows = []
    for root in folders:
        for seed in range(options.seeds):
            changed = {"MODEL": options.network} if options.network else {}
            row = own_pictures.compared(root, seed, epochs=options.epochs, **changed)
            rows.append(row)
            accuracy = f"accuracy {row['ours']:.3f}, theirs {row['theirs']:.3f} (n {row['tested']})"
            seconds = f"{row['ours_s']:.0f} s, theirs {row['theirs_25_s']:.0f} s"
            print(f"{root.name}, seed {seed}, {row['network']}: {accuracy}; {seconds}", flush=True)
    if len(rows) > 2:
        print(f"accuracy, notebook minus tutorial: {own_pictures.difference(rows)} over {len(rows)} folders and seeds")
    print(f"ratio {own_pictures.ratio(rows):.1f}: the tutorial's seconds over the notebook's")


if __name__ == "__main__":
    main()
