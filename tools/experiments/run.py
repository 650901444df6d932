"""Run a longer experiment, seeds x settings, and write one row each to data/results/NAME.csv.

    python tools/experiments/run.py NAME              run what is missing; safe to interrupt, goes on where it stopped
    python tools/experiments/run.py NAME --limit 3    at most three rows
    python tools/experiments/run.py NAME --seeds 5    seeds 0 to 4 instead of the module's own
    python tools/experiments/run.py --list            the experiments, and how much of each is done

How to add one: a module `tools/experiments/NAME.py` with a docstring (its first line is what --list shows) and

    SEEDS = range(5)

    def settings() -> list[dict]:
        '''What is compared: one dict of plain values each, all with the same keys.'''

    def run(setting: dict, seed: int) -> dict:
        '''One row: a dict of results, with the same keys each time. Seeds everything itself.'''

A row holds the seed, the setting, the results, the seconds it took, a hash of the code that made it (the module, what
it imports of sftlib and of tools, and what that imports) and the machine. A notebook reads the file, runs one seed
live, and a test recomputes one row with `recompute`.
"""

import argparse
import ast
import hashlib
import importlib.util
import os
import platform
import sys
import time
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[0] = str(ROOT) if sys.path[0] == str(HERE) else sys.path[0]  # run as a script: experiments import each other

from sftlib.results import append, folder, read  # noqa: E402

RESULTS = folder()
ABOUT = ("seconds", "code", "machine")  # columns after seed, setting and results


def load(name, here=HERE):
    """name of an experiment -> its module"""
    path, there = here / f"{name}.py", names(here)
    if name not in there:
        known = ", ".join(there) or "none yet"
        raise ValueError(f"got experiment {name!r}; expected one of: {known}. A new one is a module {path.name} there")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(here=HERE):
    """The experiments there are: the modules that have settings."""
    return sorted(p.stem for p in here.glob("*.py") if "\ndef settings(" in p.read_text(encoding="utf-8"))


def jobs(module, seeds=None):
    """experiment -> [(setting, seed)], all settings of one seed before the next, so that half a run is a fair one"""
    settings = module.settings()
    if len({tuple(s) for s in settings}) != 1:
        raise ValueError("got settings with different keys, or none; expected the same keys in all, in one order")
    taken = [key for key in settings[0] if key in ("seed", *ABOUT)]
    if taken:
        raise ValueError(f"got a setting called {taken[0]!r}; that column is the runner's: rename it")
    return [(setting, seed) for seed in (module.SEEDS if seeds is None else range(seeds)) for setting in settings]


def key(setting, seed):
    """What tells rows apart, as text, since a CSV holds text only."""
    return (str(seed), *(str(value) for value in setting.values()))


def done(path, setting_keys):
    """path of a CSV, names of the setting's columns -> keys of the rows that it holds"""
    rows = read(path)
    if rows and list(rows[0])[: 1 + len(setting_keys)] != ["seed", *setting_keys]:
        raise ValueError(
            f"{path.name} has the columns {list(rows[0])}, the settings have {list(setting_keys)}: "
            "the experiment has changed; delete or rename the old file"
        )
    return {tuple(row[k] for k in ("seed", *setting_keys)) for row in rows}


def code_version(module):
    """Hash of the experiment and of what it imports of sftlib and of tools, directly or not, committed or not.

    Taken when a run starts: what is edited while it goes on is not what makes its rows.
    """
    digest, path = hashlib.sha256(), Path(module.__file__).resolve()
    for used in sorted({path, *sources(path)}):
        digest.update(used.name.encode() + used.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:12]


def sources(path):
    """path of a Python file -> the files of sftlib and tools that it imports, anywhere in it, and that those import"""
    found, left = set(), [path]
    while left:
        tree = ast.parse(left.pop().read_text(encoding="utf-8"))
        new = {file for name in _imported(tree) for file in _files(name, path.parents[2])} - found
        found |= new
        left += new
    return found


def _imported(tree):
    """syntax tree -> dotted names that it imports; of `from a import b` both a and a.b, for b may be a module"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name, root):
    """dotted name -> its files below `root` or this project: packages on the way, and the module; none of others"""
    parts = name.split(".")
    if parts[0] not in ("sftlib", "tools"):
        return []
    for base in dict.fromkeys((root, ROOT)):
        here = [base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
        files = [f for p in here for f in (p.with_name(p.name + ".py"), p / "__init__.py") if f.is_file()]
        if files:
            return files
    return []


def machine():
    """Processor, cores and, where torch has been used, its version and GPU; no host name."""
    about, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text(encoding="utf-8").splitlines() if x.startswith("model name")]
        about = models[0].partition(":")[2].strip() if models else about
    torch = sys.modules.get("torch")
    extra = f"; {torch.get_num_threads()} threads; torch {torch.__version__}" if torch else ""
    gpu = f"; {torch.cuda.get_device_name(0)}" if torch and torch.cuda.is_available() else ""
    return f"{about}; {os.cpu_count()} cores{extra}{gpu}"


def one_row(module, setting, seed, version):
    """Run one job with the code called ``version`` -> its row"""
    started = time.perf_counter()
    result = module.run(dict(setting), seed)
    if both := [k for k in result if k in ("seed", *setting, *ABOUT)]:
        raise ValueError(f"run returned {both[0]!r}, which is already a column: rename it")
    seconds = f"{time.perf_counter() - started:.1f}"
    about = dict(zip(ABOUT, (seconds, version, machine()), strict=True))
    return {"seed": seed, **setting, **result, **about}


def run(name, *, here=HERE, results=RESULTS, seeds=None, limit=None):
    """Run what is missing of an experiment; -> how many rows were added."""
    module, path = load(name, here), results / f"{name}.csv"
    todo = jobs(module, seeds)
    there = done(path, todo[0][0].keys())
    missing = [(setting, seed) for setting, seed in todo if key(setting, seed) not in there][:limit]
    version = code_version(module)
    if old := sum(row["code"] != version for row in read(path)):
        print(f"{old} rows of {path.name} were made by other code; delete them to have them made again")
    print(f"{name}: {len(todo) - len(missing)} of {len(todo)} rows are kept or left for later, {len(missing)} to run")
    for setting, seed in (bar := tqdm(missing, unit="row", smoothing=0.1, dynamic_ncols=True)):
        bar.set_postfix_str(f"seed {seed}, " + ", ".join(f"{k} {v}" for k, v in setting.items()))
        append(path, one_row(module, setting, seed, version))
    return len(missing)


def recompute(name, index=0, *, here=HERE, results=RESULTS):
    """Run row `index` of the stored results again -> (stored results as text, new results)"""
    module, row = load(name, here), read(results / f"{name}.csv")[index]
    setting, seed = next(
        (setting, seed)
        for setting, seed in jobs(module, int(row["seed"]) + 1)
        if key(setting, seed) == tuple(row[k] for k in ("seed", *setting))
    )
    new = module.run(dict(setting), seed)
    return {k: row[k] for k in new}, new


def print_list(here=HERE, results=RESULTS):
    """Print each experiment with what is done of it."""
    for name in names(here):
        module = load(name, here)
        todo = jobs(module)
        there = done(results / f"{name}.csv", todo[0][0].keys())
        count = sum(key(setting, seed) in there for setting, seed in todo)
        print(f"{name}: {count} of {len(todo)} rows. {(module.__doc__ or '').strip().splitlines()[0]}")


def main(argv=None, here=HERE, results=RESULTS):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--seeds", type=int, metavar="S", help="seeds 0 to S - 1 instead of the module's own")
    parser.add_argument("--limit", type=int, metavar="N", help="run at most N rows now")
    parser.add_argument("--list", action="store_true", help="show the experiments")
    args = parser.parse_args(argv)
    try:
        if args.list or not args.name:
            print_list(here, results)
        else:
            run(args.name, here=here, results=results, seeds=args.seeds, limit=args.limit)
    except ValueError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
