"""Checkers say one line, never raise, and tell right answers from wrong ones however they are written."""

import importlib
import importlib.util
import pkgutil
import random
import re
import sys
import unittest.mock
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import sftlib.checks as checks
from sftlib.checks import check, checker, expect, require

for _module in pkgutil.iter_modules(checks.__path__):
    importlib.import_module(f"sftlib.checks.{_module.name}")
NAMES = sorted(checks.CHECKERS)


def answers(name, kind, file="checks_{}.py"):
    """The RIGHT, WRONG or SLIPS that tests/checks_NN.py, or another file of its notebook, holds for checker `name`."""
    path = Path(__file__).with_name(file.format(checks.CHECKERS[name].__module__.rpartition(".nb")[2]))
    assert path.exists(), f"the answers to {name} belong in tests/{path.name}"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kind).get(name, [])


def said(capsys, name, answer):
    """The one line that check prints, once what is said once was said."""
    checks.SAID.add(checks.NO_GRADE)
    assert check(name, answer) is None
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.endswith("\n") and printed.out.count("\n") == 1, printed
    return printed.out.rstrip("\n")


@pytest.fixture
def temporary(monkeypatch):
    """A registry of its own for checkers that a test makes."""
    monkeypatch.setattr(checks, "CHECKERS", {})
    monkeypatch.setattr(checks, "IN_PLACE", set())
    monkeypatch.setattr(checks, "MAY_CHANGE", {})


def test_there_are_checkers():
    assert "00.accuracy" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_accepted_however_they_are_written(capsys, name):
    right = answers(name, "RIGHT")
    assert len(right) >= 2, f"{name} needs at least two right answers, written differently"
    assert {said(capsys, name, answer) for answer in right} == {f"✅ {name}: correct"}


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_rejected_with_the_reason(capsys, name):
    wrong = answers(name, "WRONG")
    assert len(wrong) >= 2, f"{name} needs at least two typical wrong answers"
    for i, (answer, words) in enumerate(wrong):
        line = said(capsys, name, answer)
        assert line.startswith(f"❌ {name}: ") and words and words in line, f"wrong answer {i}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_answers_written_from_the_exercise_alone_are_told_apart(capsys, name):
    right, slips = (answers(name, kind, "checks_{}_slips.py") for kind in ("RIGHT", "SLIPS"))
    assert len(right) >= 5 and len(slips) >= 12, f"{name}: {len(right)} right and {len(slips)} wrong answers"
    assert {said(capsys, name, answer) for answer in right} == {f"✅ {name}: correct"}
    for answer, slip in slips:
        line = said(capsys, name, answer)
        assert line.startswith(f"❌ {name}: "), f"{slip}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_stub_is_still_to_do(capsys, name):
    def dots(*args):
        """What to do."""
        ...

    def not_implemented(*args):
        raise NotImplementedError

    def code_around(*args):
        half = len(args) / 2
        result = ...
        return result if half else result

    for stub in (None, ..., dots, lambda *args: None, not_implemented, code_around, (..., 3), {"a": ...}, [...]):
        if name not in checks.IN_PLACE or stub is not code_around:
            assert said(capsys, name, stub) == f"⬜ {name}: still to do"


def test_pytorchs_own_word_for_what_it_cannot_do_is_told_and_is_no_stub(capsys):
    def mean_of_truth_values(logits, y):
        return (logits.argmax(1) == y).mean()

    line = said(capsys, "00.accuracy", mean_of_truth_values)
    assert line.startswith("❌ 00.accuracy: your code raised NotImplementedError: mean()") and "Bool" in line


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_is_wrong_and_raises_nothing(capsys, name):
    def leaves(*args):
        sys.exit(3)

    for nonsense in (
        "text",
        object(),
        float("nan"),
        -7,
        torch.zeros(3, 5),
        dict,
        lambda: 3,
        leaves,
        [],
        torch.nn.ReLU(),
    ):
        assert said(capsys, name, nonsense).startswith(f"❌ {name}: ")


def test_the_first_case_of_accuracy_tells_all_mistakes_apart():
    nb00 = importlib.import_module("sftlib.checks.nb00")
    logits, y = nb00._case(*nb00.CASES[0])
    right = int((logits.argmax(1) == y).sum())
    values = [value for value, _ in nb00._mistakes(logits, y, right)] + [right / len(y)]
    assert len(set(values)) == len(values)


def test_an_unknown_name_says_which_there_are(capsys):
    assert said(capsys, "00.acuracy", 3).startswith("❌ 00.acuracy: there is no such exercise; there are 00.accuracy")
    assert said(capsys, "no module", 3).startswith("❌")


def test_prints_warnings_and_random_numbers_of_the_answer_leave_no_trace(capsys, temporary):
    @checker("99.noise")
    def _(answer):
        expect("value", answer(), 1.0)

    def noisy():
        print("one\ntwo")
        print("three", file=sys.stderr)
        warnings.warn("four", stacklevel=1)
        torch.rand(3)
        return 1.0

    before = torch.get_rng_state()
    assert said(capsys, "99.noise", noisy) == "✅ 99.noise: correct"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_message_of_many_lines_becomes_one(capsys, temporary):
    @checker("99.lines")
    def _(answer):
        raise ValueError("a\n\n b")

    assert said(capsys, "99.lines", 1) == "❌ 99.lines: your code raised ValueError: a b"


def test_a_function_that_rightly_returns_none_is_judged_by_what_it_changed(capsys, temporary):
    @checker("99.step", in_place=True, changes=(0,))
    def _(answer):
        w = torch.ones(3)
        answer(w)
        expect("w after the step", w, torch.full((3,), 0.5))

    def untouched(w):
        """w (D,), changed in place"""
        ...

    assert said(capsys, "99.step", lambda w: w.sub_(0.5)) == "✅ 99.step: correct"
    assert said(capsys, "99.step", untouched) == "⬜ 99.step: still to do"
    assert "got 1.5 at [0], expected 0.5" in said(capsys, "99.step", lambda w: w.add_(0.5))


def test_all_mistakes_that_give_one_value_are_named():
    known = [(4.0, "twice"), (5.0, "no"), (4.0, "squared"), (4.0, "twice")]
    with pytest.raises(checks.Wrong, match=re.escape("twice; or: squared (loss: got 4, expected 2)")):
        expect("loss", 4, 2.0, known=known)


def test_what_an_argument_loses_is_said_once(capsys, temporary):
    @checker("99.twice")
    def _(answer):
        for _ in range(2):
            expect("sum", answer(torch.ones(3)), 3.0)

    line = said(capsys, "99.twice", lambda x: float(x.sub_(1).sum() + 3))
    assert line.startswith("❌") and line.count("changes its argument") == 1


def test_an_attribute_of_a_module_that_was_changed_is_noticed(capsys, temporary):
    @checker("99.module")
    def _(answer):
        answer(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))

    line = said(capsys, "99.module", lambda f: setattr(f[0], "momentum", 0.5) or 1)
    assert "f.0 has other parts or attributes" in line


def test_an_answer_that_computes_in_float32_alone_is_tried_there(capsys, temporary):
    @checker("99.single")
    def _(answer):
        W = torch.arange(6, dtype=torch.float64).view(2, 3)
        expect("rows", answer(W), [3.0, 12.0])

    assert said(capsys, "99.single", lambda W: W @ torch.ones(3)) == "✅ 99.single: correct"
    assert said(capsys, "99.single", lambda W: W @ torch.ones(3, dtype=torch.float16)).startswith("❌")
    assert "mat" in said(capsys, "99.single", lambda W: W @ torch.ones(2, dtype=torch.float64))


def test_expect_says_which_value_differs_and_knows_mistakes_by_name():
    expect("same", torch.tensor([1.0, 2.0]), [1, 2])
    with pytest.raises(checks.Wrong, match=re.escape("grad: got 5 at [1], expected 2")):
        expect("grad", torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]))
    with pytest.raises(checks.Wrong, match=re.escape("twice too large (loss: got 4, expected 2)")):
        expect("loss", 4, 2.0, known=[(3.0, "no"), (4.0, "twice too large")])
    with pytest.raises(checks.Wrong, match=re.escape("got shape (2,), expected (2, 1)")):
        expect("z", torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(checks.Wrong, match="got nan, expected 1"):
        expect("loss", float("nan"), 1.0)
    with pytest.raises(checks.Wrong, match="because"):
        require(False, "because")


def test_two_modules_cannot_claim_one_name(temporary):
    def other(answer): ...

    other.__module__ = "sftlib.checks.nb99"
    checker("99.same")(other)
    with pytest.raises(ValueError, match="two checkers are called '99.same'"):
        checker("99.same")(lambda answer: None)


# ------------------------------------------------- what holds for all exercises: a right answer, with a slip beside it


class _Liar(torch.Tensor):
    """Says that it is close to anything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.allclose, torch.equal):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


class _Mute(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def _spoil_tensor(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
        value.data.mul_(3).add_(1)
        return True


def _spoil_array(value):
    if isinstance(value, np.ndarray):
        value += 1
        return True


def _spoil_list(value):
    if isinstance(value, list) and len({id(v) for v in value}) > 1:
        value.reverse()
        return True


def _spoil_dict(value):
    if isinstance(value, dict):
        value["new"] = torch.zeros(3)
        return True


def _want_gradients(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.is_leaf and not value.requires_grad:
        value.requires_grad_()
        return True


def _leave_a_gradient(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.is_leaf:
        value.grad = torch.ones_like(value)
        return True


def _step_the_module(value):
    if isinstance(value, torch.nn.Module):
        for p in value.parameters():
            p.data.sub_(0.1)
        return True


def _hook_the_module(value):
    if isinstance(value, torch.nn.Module):
        value.register_forward_hook(lambda *args: None)
        return True


def _flip_the_mode(value):
    if isinstance(value, torch.nn.Module):
        last = list(value.modules())[-1]
        last.training = not last.training
        return True


SPOILERS = (
    _spoil_tensor, _spoil_array, _spoil_list, _spoil_dict, _want_gradients, _leave_a_gradient,
    _step_the_module, _hook_the_module, _flip_the_mode,
)  # fmt: skip


def functions(*, leaving_out=()):
    """name -> the right answers to it that are functions"""
    right = {name: [a for a in answers(name, "RIGHT") if callable(a)] for name in NAMES if name not in leaving_out}
    return {name: found for name, found in right.items() if found}


def spoiled(function, name, spoil, done):
    """The function, which after its work spoils the first argument that it must leave alone and that can be"""

    def answer(*args):
        result = function(*args)
        may = checks.MAY_CHANGE[name]
        if any(spoil(a) for i, a in enumerate(args) if i not in may):
            done.append(name)
        return result

    return answer


@pytest.mark.parametrize("spoil", SPOILERS)
def test_an_argument_changed_in_place_is_named_in_every_exercise(capsys, spoil):
    tried = set()
    for name, right in functions().items():
        done = []
        line = said(capsys, name, spoiled(right[0], name, spoil, done))
        if done:
            tried.add(name)
            assert line.startswith("❌"), line  # an exercise that looks itself says it in its own words
        else:
            assert line.startswith("✅"), line
    assert len(tried) >= {_spoil_tensor: 12, _want_gradients: 12, _leave_a_gradient: 12}.get(spoil, 1), tried


@pytest.mark.parametrize(
    "switch, words",
    [
        (lambda: torch.set_grad_enabled(False), "the gradients are switched off"),
        (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
        (lambda: torch.use_deterministic_algorithms(True), "deterministic"),
        (lambda: torch.set_default_device("meta"), "the default device"),
    ],
)
def test_a_switch_of_pytorch_left_behind_is_named_and_put_back(capsys, switch, words):
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    for name, right in functions().items():

        def answer(*args, function=right[0]):
            result = function(*args)
            switch()
            return result

        line = said(capsys, name, answer)
        assert line.startswith("❌") and words in line, line
        assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()) == before
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", sorted(functions(leaving_out=checks.IN_PLACE)))
def test_a_forgotten_return_is_named(capsys, name):
    def answer(*args):
        functions()[name][0](*args)

    assert "your function returned None" in said(capsys, name, answer)


@pytest.mark.parametrize("name", NAMES)
def test_what_says_itself_that_it_is_equal_is_wrong(capsys, name):
    def liar(*args):
        return torch.full((3,), 77.0).as_subclass(_Liar)

    def anything(*args):
        return unittest.mock.ANY

    for answer in (liar, anything, unittest.mock.ANY, lambda *args: (unittest.mock.ANY, unittest.mock.ANY)):
        assert said(capsys, name, answer).startswith(f"❌ {name}: ")


def test_a_liar_of_the_right_shape_is_found_out(capsys):
    tried = functions(leaving_out=checks.IN_PLACE | {"03.no_collapse"})  # there any multiple of the loss is right
    for name, right in tried.items():

        def answer(*args, function=right[0]):
            result = function(*args)
            numbers = isinstance(result, torch.Tensor) and result.is_floating_point()
            return (3 * result + 7).as_subclass(_Liar) if numbers else None

        assert said(capsys, name, answer).startswith("❌")
    assert len(tried) > 20


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_without_words_is_named_by_its_class(capsys, name):
    def answer(*args):
        raise _Mute

    assert said(capsys, name, answer) == f"❌ {name}: your code raised _Mute"


@pytest.mark.parametrize("form", ["NumPy", "list", "float64", "float32"])
def test_right_numbers_pass_in_any_form(capsys, form):
    tried, whole = 0, set() if form in ("NumPy", "list") else {"09.labels"}  # labels are no fractions
    for name, right in functions(leaving_out=checks.IN_PLACE | {"03.no_collapse"} | whole).items():

        def answer(*args, function=right[0]):
            result = function(*args)
            if not isinstance(result, torch.Tensor | np.ndarray | float | int):
                return result
            t = torch.as_tensor(result)
            return {"NumPy": t.detach().numpy, "list": t.tolist, "float64": t.double, "float32": t.float}[form]()

        tried += 1
        assert said(capsys, name, answer) == f"✅ {name}: correct"
    assert tried > 20


def test_what_the_notebook_switched_off_does_not_reach_the_checker(capsys):
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    try:
        for name, right in functions().items():
            assert said(capsys, name, right[0]) == f"✅ {name}: correct"
        assert not torch.is_grad_enabled() and torch.get_default_dtype() is torch.float64
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


def test_random_numbers_of_python_and_numpy_are_as_before(capsys, temporary):
    @checker("99.draws")
    def _(answer):
        answer()

    before = random.getstate(), np.random.get_state()[1].tolist()
    said(capsys, "99.draws", lambda: [random.seed(3), np.random.seed(3), random.random(), np.random.rand()])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_it_says_once_that_a_mark_is_no_grade(capsys, temporary, monkeypatch):
    monkeypatch.setattr(checks, "SAID", set())

    @checker("99.one")
    def _(answer):
        expect("value", answer, 1.0)

    check("99.one", 2)
    assert "no grade" not in capsys.readouterr().out
    check("99.one", 1)
    check("99.one", 1.0)
    assert capsys.readouterr().out.splitlines() == ["✅ 99.one: correct", checks.NO_GRADE, "✅ 99.one: correct"]
    assert "no grade" in checks.NO_GRADE


def test_interrupting_stops_the_cell(temporary):
    @checker("99.long")
    def _(answer):
        answer()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("99.long", interrupted)


def test_a_name_that_is_no_text_is_no_exercise(capsys):
    for name in (3, None, [], {"a": 1}):
        check(name, 1)
        assert capsys.readouterr().out.startswith("❌")
