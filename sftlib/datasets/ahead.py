"""Work done ahead of time in threads, in order, no further ahead than memory allows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def ahead(
    function: Callable, items: Iterable, *, threads: int, depth: int, cost: Callable[[object], int], budget: int
) -> Iterator:
    """function of every item, in order: at most ``depth`` of them, of a total cost of ``budget``, run or wait at a time

    One item is always on its way, whatever it costs. Ended early, it cancels what has not begun and waits for the rest.
    """
    waiting: deque = deque()
    held = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                price = cost(item)
                while waiting and (len(waiting) >= depth or held + price > budget):
                    paid, result = waiting.popleft()
                    held -= paid
                    yield result.result()
                waiting.append((price, pool.submit(function, item)))
                held += price
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
