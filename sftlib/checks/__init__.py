"""Exercise checkers: `check(name, answer)` prints one line and never raises.

✅ correct, ⬜ still to do, ❌ what is wrong. A notebook's checkers live in the module `nbNN` beside this one and are
loaded at the first `check("NN.…")`, as is `nbNN_deeper`, where there is one, of its Going-deeper notebook. A checker
takes the learner's answer, tries it on small cases, and returns nothing:

    @checker("00.accuracy")
    def _accuracy(answer):
        expect("2 of 3 right", answer(logits, y), 2 / 3, known=[(1 / 3, "this is the share of errors")])

It tests properties, not one way of writing. `known` pairs a wrong value with the mistake it gives away. Every checker
has its list of right and of wrong answers in `tests/checks_NN.py`.

What holds for all exercises is done here, once. An answer that is a function must leave its arguments as they were
(values, order, gradients, modes, hooks), and PyTorch's switches; `@checker(name, changes=(0,))` names the positions of
those that it may change. One that returns None has forgotten its `return`, unless the exercise changes its argument in
place: `@checker(name, in_place=True)`. Subclasses that could answer comparisons themselves are taken off.
"""

import contextlib
import dis
import importlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch

from sftlib.checks.traces import as_at_the_start, difference, plain, state_of, switches_kept

CHECKERS: dict[str, Callable] = {}
IN_PLACE: set[str] = set()  # exercises whose functions rightly return None
MAY_CHANGE: dict[str, tuple[int, ...]] = {}  # positions of the arguments that a function may change
SAID: set[str] = set()  # what is said once
NO_GRADE = "   (✅ means: right on the few cases that were tried. It proves nothing, and it is no grade.)"


class Wrong(Exception):
    """The answer is wrong; the message says why, with both values."""


class StillToDo(Exception):
    """The stub has not been touched."""


def checker(name: str, *, in_place: bool = False, changes: tuple[int, ...] = ()) -> Callable[[Callable], Callable]:
    """Register the decorated function as the checker of exercise `name`, "NN.topic"."""

    def register(function):
        if name in CHECKERS and CHECKERS[name].__module__ != function.__module__:
            raise ValueError(f"two checkers are called {name!r}; rename the one in {function.__module__}")
        CHECKERS[name], MAY_CHANGE[name] = function, changes
        if in_place:
            IN_PLACE.add(name)
        return function

    return register


def check(name: str, answer) -> None:
    """Print one line about the learner's answer to exercise `name`, once followed by what ✅ means; never raises."""
    left: list[str] = []
    try:
        mark, text = "✅", _judged(name, answer, left)
    except StillToDo:
        mark, text = "⬜", "still to do"
    except Wrong as error:
        mark, text = "❌", "; besides, ".join([str(error), *left[:1]])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        mark, text = "❌", "; besides, ".join([f"your code raised {_words(error)}", *left[:1]])
        if _words(error) == "NotImplementedError: ":  # PyTorch's own, of a mean of truth values, has words
            mark, text = "⬜", "still to do"
    name = name if isinstance(name, str) else type(name).__name__
    print(f"{mark} {name}: {' '.join(text.split())[:400]}")
    if mark == "✅" and NO_GRADE not in SAID:
        SAID.add(NO_GRADE)
        print(NO_GRADE)


def _judged(name: str, answer, left: list[str]) -> str:
    """The word of a right answer, or Wrong; what the answer leaves behind is added to `left`"""
    judge = _find(name)
    if is_stub(answer):
        raise StillToDo
    with _quiet(), as_at_the_start():
        judge(_watched(answer, name, left) if callable(answer) and not isinstance(answer, type) else _plain(answer))
    if left:
        first, left[:] = left[0], []
        raise Wrong(first)
    return "correct"


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__


def _find(name):
    for ending in ("", "_deeper"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"sftlib.checks.nb{str(name).split('.')[0]}{ending}")
    if name not in CHECKERS:
        raise Wrong(f"there is no such exercise; there are {', '.join(sorted(CHECKERS)) or 'none'}")
    return CHECKERS[name]


@contextlib.contextmanager
def _quiet():
    """Swallow prints and warnings of the answer."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings():
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


def _watched(function, name, left):
    """The function, which adds to `left` what it changes and gives plain values; a result of `...` is still to do."""

    def call(*args, **kwargs):
        places = {place: value for i, (place, value) in enumerate(zip(_places(function, len(args)), args, strict=True))
                  if i not in MAY_CHANGE.get(name, ())} | kwargs  # fmt: skip
        before = {place: state_of(value, place) for place, value in places.items()}
        with switches_kept(left):
            try:
                result = function(*args, **kwargs)
            except RuntimeError as error:
                if not ("dtype" in str(error) or "scalar type" in str(error)) or not any(map(_is_double, args)):
                    raise
                return call(*[a.float() if _is_double(a) else a for a in args], **kwargs)  # as in the notebooks
        if result is None and name not in IN_PLACE:
            raise Wrong("your function returned None: is its `return` forgotten?")
        if name not in IN_PLACE and is_stub(result):
            raise StillToDo
        for place, value in places.items():
            if words := difference(before[place], state_of(value, place)):
                left.append(
                    f"your function changes its argument: {words}; work on a copy, and put back what you switch"
                )
        return _plain(result)

    return call


def _is_double(value) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float64


def _places(function, n: int) -> list[str]:
    """The names of a function's first n arguments"""
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind < p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    return names[:n] + [f"argument {i + 1}" for i in range(len(names[:n]), n)]


def _plain(value):
    try:
        return plain(value)
    except ValueError as error:
        raise Wrong(str(error)) from None


def pair(value, what: str = "two things, as a pair"):
    """(first, second) of a tuple, list, array or tensor of two; Wrong for anything else"""
    if isinstance(value, tuple | list) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim):
        if len(value) == 2:
            return tuple(value)
        raise Wrong(f"got {len(value)} of them; expected {what}")
    raise Wrong(f"got a {type(value).__name__}; expected {what}")


def choice(value, choices: Iterable[str], what: str) -> str:
    """The one of `choices` that a text means, whatever its capitals and spaces; Wrong for anything else"""
    for known in choices:
        if isinstance(value, str) and " ".join(value.split()).lower() == known.lower():
            return known
    raise Wrong(f"{what} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def expect(what: str, got, want, *, tolerance: float = 1e-5, known: Iterable[tuple[object, str]] = ()) -> None:
    """Raise Wrong unless `got` equals `want` (numbers, tensors or arrays) within `tolerance`, absolute and relative.

    `known` pairs values that typical mistakes give with the mistake's name: choose cases in which these values differ.
    Where several mistakes give the value that was got, all of them are named.
    """
    got, want = numeric(what, got), torch.as_tensor(want, dtype=torch.float64)
    if got.shape == want.shape and _close(got, want, tolerance):
        return
    values = ((torch.as_tensor(value, dtype=torch.float64), mistake) for value, mistake in known)
    made = {mistake: None for v, mistake in values if got.shape == v.shape and _close(got, v, tolerance)}
    shown = f"{what}: {_show(got, want)}"
    raise Wrong(f"{'; or: '.join(made)} ({shown})" if made else shown)


def require(true: bool, why: str) -> None:
    """Raise Wrong with `why` unless `true`."""
    if not true:
        raise Wrong(why)


def numeric(what: str, value) -> torch.Tensor:
    """A number, list, array or tensor as float64 on the CPU; Wrong for anything else"""
    if value is None:
        raise Wrong(f"{what}: got None, expected a number or a tensor")
    try:
        if isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value):
            value = torch.stack([torch.as_tensor(v).detach().cpu() for v in value])
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
