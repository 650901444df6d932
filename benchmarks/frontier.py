"""Tables of accuracy against seconds, for benchmarks/strategies.py.

Rows are dicts with "method", "rate", "seed", "accuracy" in [0, 1], "wall_s" and "process_s", one a method and seed.
"""

from sftlib.metrics import mean_interval, paired_interval


def means(rows: list[dict], column: str) -> dict[str, float]:
    """rows -> mean of a column by method, in the rows' order"""
    names = dict.fromkeys(row["method"] for row in rows)
    return {n: sum(r[column] for r in rows if r["method"] == n) / sum(r["method"] == n for r in rows) for n in names}


def frontier(seconds: dict[str, float], accuracy: dict[str, float]) -> list[str]:
    """-> the methods that no other equals in accuracy in as few seconds, the fastest first"""
    best, found = -1.0, []
    for name in sorted(seconds, key=lambda n: (seconds[n], -accuracy[n])):
        if accuracy[name] > best:
            best = accuracy[name]
            found.append(name)
    return found


def print_table(rows: list[dict]) -> None:
    """All methods, the fastest first, with those on the frontier marked"""
    seconds, accuracy, cores = means(rows, "wall_s"), means(rows, "accuracy"), means(rows, "process_s")
    best = frontier(seconds, accuracy)
    print(f"\n{'method':<24}{'rate':>8}{'seconds':>9}{'core-s':>8}{'accuracy':>10}  95 % interval over seeds")
    for name in sorted(seconds, key=seconds.get):
        mine = [row for row in rows if row["method"] == name]
        spread = mean_interval([row["accuracy"] for row in mine]) if len(mine) > 1 else None
        interval = f"[{spread.low:.3f}, {spread.high:.3f}]" if spread else ""
        numbers = f"{mine[0]['rate']:>8g}{seconds[name]:>9.2f}{cores[name]:>8.2f}{accuracy[name]:>10.3f}"
        print(f"{name:<24}{numbers}  {interval}{'  <- frontier' if name in best else ''}")


def print_comparison(rows: list[dict], theirs: list[str]) -> None:
    """For each method of theirs the fastest of ours that is as accurate; last, the ratio for their most accurate one"""
    seconds, accuracy = means(rows, "wall_s"), means(rows, "accuracy")
    print()
    for name in sorted(theirs, key=accuracy.get):
        mine, reached = nearest(name, seconds, accuracy, theirs)
        a, b = ([row["accuracy"] for row in rows if row["method"] == n] for n in (mine, name))
        difference = f"{paired_interval(a, b)}" if len(a) > 1 else f"{a[0] - b[0]:+.3f}"
        ratio = seconds[name] / seconds[mine]
        print(
            f"{name}: {mine}, accuracy {difference}, in 1/{ratio:.1f} of its seconds{'' if reached else ': BELOW IT'}"
        )
    words = "reaches" if reached else f"comes to {accuracy[mine]:.3f} and does not reach"
    print(f"ratio {ratio:.2f}: our frontier {words} the best competitor's accuracy", end=" ")
    print(f"({accuracy[name]:.3f}, {name}) in 1/{ratio:.1f} of its seconds")


def nearest(name, seconds, accuracy, theirs) -> tuple[str, bool]:
    """-> (the fastest of ours at least as accurate as ``name``, or our most accurate one; whether it is so accurate)"""
    ours = [n for n in seconds if n not in theirs]
    as_good = [n for n in ours if accuracy[n] >= accuracy[name]]
    return min(as_good or [max(ours, key=accuracy.get)], key=seconds.get), bool(as_good)
