"""What the panel costs: its share of a run, and what long use leaves behind.

    python benchmarks/panel.py [--steps 40] [--side 96] [--rounds 5] [--cycles 600]

Share: SqueezeNet is trained on drawn noise in one thread, with the panel. The clock is the processor's
(`time.process_time`), stopped whenever the loop hands a record to the panel: what is not the loop's own is the
panel's. In turns with it the same run goes without the panel, which on a noisy machine says less.
(A drawing that took t is followed by none for 50 t, so that a slow page cannot cost more.)
Use: as many cycles of start, two pauses, two changes of the rate, and stop as half an hour holds at a click a second;
threads, Python's memory and the process's memory before and after. Ends with an error if a limit is not kept.
"""

import argparse
import gc
import statistics
import threading
import time
import tracemalloc
from types import SimpleNamespace as Record

import psutil
import torch

from sftlib.backbones import load_backbone
from sftlib.model import LinearHead, Model
from sftlib.runtime import seed_everything
from sftlib.training import Controls, fit
from sftlib.widgets import LiveRun


def share(steps: int, side: int, rounds: int) -> tuple[float, float]:
    """-> the panel's part of a run's processor time, and that time with the panel by that without, minus 1; medians"""
    torch.set_num_threads(1)
    seed_everything(0)
    x, y = torch.rand(32, 3, side, side), torch.arange(32) % 2
    controls, loop_s = Controls(feature_weight=1.0), [0.0]

    def records():
        f = load_backbone("squeezenet1_1", size=side)
        model = Model(f, LinearHead(f.feature_dim, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        yield from fit(model, [(x, y)] * steps, optimizer, epochs=1, val_loader=[(x, y)], controls=controls)

    def timed():
        running, mark = records(), time.process_time()
        for record in running:
            loop_s[0] += time.process_time() - mark
            yield record
            mark = time.process_time()
        loop_s[0] += time.process_time() - mark

    parts, ratios = [], []
    for number in range(rounds):
        start, loop_s[0] = time.process_time(), 0.0
        LiveRun(timed, controls=controls).run()
        with_panel = time.process_time() - start
        start = time.process_time()
        for _ in records():
            pass
        without = time.process_time() - start
        parts.append(1 - loop_s[0] / with_panel)
        ratios.append(with_panel / without - 1)
        print(f"  round {number + 1}: {with_panel:.2f} s, of which {loop_s[0]:.2f} s the loop's; alone {without:.2f} s")
    return statistics.median(parts), statistics.median(ratios)


def drawing_s() -> float:
    """-> processor time of one drawing of a run of 3,000 steps, in seconds"""
    panel = LiveRun(lambda: (_step(k) for k in range(1, 3001)), refresh_s=1e9)
    panel.run()
    start = time.process_time()
    for _ in range(100):
        panel._draw()
    return (time.process_time() - start) / 100


def _step(number):
    return Record(
        step=number, steps=10**9, epoch=1, n=4, loss=1 / number, task_loss=0.5, feature_loss=0.0, lr=1e-3,
        examples_per_s=211.0,
    )  # fmt: skip


def use(cycles: int) -> tuple[int, float, float]:
    """-> threads, MB of Python's memory and MB of the process that are there after the cycles and were not before"""
    count = [0]

    def loop():
        while True:
            count[0] += 1
            yield _step(count[0])

    panel = LiveRun(loop, controls=Controls(feature_weight=1.0), refresh_s=0.01)
    rate = panel.dials.sliders["rate"]

    def cycle():
        count[0] = 0
        panel.start()
        for target in (70, 140):
            while count[0] < target:
                time.sleep(0.0005)
            panel.pause()
            rate.value = 0.5 if rate.value != 0.5 else 2.0
            panel.resume()
        while count[0] < 200:
            time.sleep(0.0005)
        panel.stop()
        panel.wait(60)

    for _ in range(30):
        cycle()
    gc.collect()
    threads, process = threading.active_count(), psutil.Process().memory_info().rss
    tracemalloc.start()
    for _ in range(cycles):
        cycle()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return threading.active_count() - threads, grown / 1e6, (psutil.Process().memory_info().rss - process) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=600)
    options = parser.parse_args()
    print(f"one drawing: {1e3 * drawing_s():.2f} ms of processor time")
    cost, ratio = share(options.steps, options.side, options.rounds)
    print(f"the panel takes {cost:.2%} of the run (limit 2 %); with it and without in turns: {ratio:+.1%}")
    threads, python, process = use(options.cycles)
    print(f"{options.cycles} cycles: {threads} threads, {python:.2f} MB of Python's memory, {process:.1f} MB of the "
          "process more than before (limits 0, 1, 20)")  # fmt: skip
    if cost > 0.02 or threads > 0 or python > 1 or process > 20:
        raise SystemExit("a limit is not kept")


if __name__ == "__main__":
    main()
