"""Exercise checkers: `check(name, answer)` prints one line and never raises.

✅ correct, ⬜ still to do, ❌ what is wrong. A notebook's checkers live in the module `nbNN` beside this one and are
loaded at the first `check("NN.…")`. A checker takes the learner's answer, tries it on small cases, and returns nothing:

    @checker("00.accuracy")
    def _accuracy(answer):
        expect("2 of 3 right", answer(logits, y), 2 / 3, known=[(1 / 3, "this is the share of errors")])

It tests properties, not one way of writing. `known` pairs a wrong value with the mistake it gives away. Every checker
has its list of right and of wrong answers in `tests/checks_NN.py`. A function that returns None counts as still to do;
a checker of functions that change their argument is registered with `@checker(name, in_place=True)`.
"""

import contextlib
import dis
import functools
import importlib
import io
import warnings
from collections.abc import Callable, Iterable

import torch

CHECKERS: dict[str, Callable] = {}
IN_PLACE: set[str] = set()  # exercises whose functions rightly return None


class Wrong(Exception):
    """The answer is wrong; the message says why, with both values."""


class StillToDo(Exception):
    """The stub has not been touched."""


def checker(name: str, *, in_place: bool = False) -> Callable[[Callable], Callable]:
    """Register the decorated function as the checker of exercise `name`, "NN.topic"."""

    def register(function):
        if name in CHECKERS and CHECKERS[name].__module__ != function.__module__:
            raise ValueError(f"two checkers are called {name!r}; rename the one in {function.__module__}")
        CHECKERS[name] = function
        if in_place:
            IN_PLACE.add(name)
        return function

    return register


def check(name: str, answer) -> None:
    """Print one line about the learner's answer to exercise `name`; never raises."""
    try:
        judge = _find(name)
        if is_stub(answer):
            raise StillToDo
        with _quiet():
            judge(answer if name in IN_PLACE else _noticing_stubs(answer))
        mark, text = "✅", "correct"
    except (StillToDo, NotImplementedError):
        mark, text = "⬜", "still to do"
    except Wrong as error:
        mark, text = "❌", str(error)
    except (Exception, SystemExit) as error:
        mark, text = "❌", f"your code raised {type(error).__name__}: {error}"
    print(f"{mark} {name}: {' '.join(text.split())[:400]}")


def _find(name):
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(f"sftlib.checks.nb{str(name).split('.')[0]}")
    if name not in CHECKERS:
        raise Wrong(f"there is no such exercise; there are {', '.join(sorted(CHECKERS)) or 'none'}")
    return CHECKERS[name]


@contextlib.contextmanager
def _quiet():
    """Swallow prints and warnings of the answer, and leave the random state as it was."""
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def is_stub(answer) -> bool:
    """Has nothing been filled in: None, `...`, a container that holds `...`, or a function whose body is only that?"""
    if answer is None or answer is Ellipsis:
        return True
    if isinstance(answer, tuple | list | dict):
        return any(v is Ellipsis for v in (answer.values() if isinstance(answer, dict) else answer))
    code = getattr(answer, "__code__", None)
    return code is not None and _returns_none_at_once(code)


def _returns_none_at_once(code):
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("RESUME", "NOP", "RETURN_VALUE")]
    return len(steps) == 1 and "CONST" in steps[0].opname and steps[0].argval in (None, Ellipsis)


def _noticing_stubs(function):
    """The function, except that None or `...` as its result (a stub with code around it) counts as still to do."""
    if not callable(function) or isinstance(function, type | torch.nn.Module):
        return function

    @functools.wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        if is_stub(result):
            raise StillToDo
        return result

    return call


def expect(what: str, got, want, *, tolerance: float = 1e-5, known: Iterable[tuple[object, str]] = ()) -> None:
    """Raise Wrong unless `got` equals `want` (numbers, tensors or arrays) within `tolerance`, absolute and relative.

    `known` pairs values that typical mistakes give with the mistake's name: choose cases in which these values differ.
    """
    got, want = _tensor(what, got), torch.as_tensor(want, dtype=torch.float64)
    if got.shape == want.shape and _close(got, want, tolerance):
        return
    for value, mistake in known:
        value = torch.as_tensor(value, dtype=torch.float64)
        if got.shape == value.shape and _close(got, value, tolerance):
            raise Wrong(f"{mistake} ({what}: {_show(got, want)})")
    raise Wrong(f"{what}: {_show(got, want)}")


def require(true: bool, why: str) -> None:
    """Raise Wrong with `why` unless `true`."""
    if not true:
        raise Wrong(why)


def _tensor(what, value):
    if value is None:
        raise Wrong(f"{what}: got None, expected a number or a tensor")
    try:
        return torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what}: got {type(value).__name__}, expected a number or a tensor") from None


def _close(a, b, tolerance):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _show(got, want):
    """Both values in words; of larger tensors, the first entry in which they differ."""
    if got.shape != want.shape:
        return f"got shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if got.ndim == 0:
        return f"got {got.item():.6g}, expected {want.item():.6g}"
    worst = (got - want).abs().nan_to_num(nan=torch.inf).flatten().argmax()
    place = tuple(int(i) for i in torch.unravel_index(worst, got.shape))
    return f"got {got[place].item():.6g} at {list(place)}, expected {want[place].item():.6g}"
