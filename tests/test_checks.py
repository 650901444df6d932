"""Checkers say one line, never raise, and tell right answers from wrong ones however they are written."""

import importlib
import importlib.util
import pkgutil
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

import sftlib.checks as checks
from sftlib.checks import check, checker, expect, require

for _module in pkgutil.iter_modules(checks.__path__):
    importlib.import_module(f"sftlib.checks.{_module.name}")
NAMES = sorted(checks.CHECKERS)


def answers(name, kind):
    """The RIGHT or WRONG answers that tests/checks_NN.py holds for checker `name`."""
    path = Path(__file__).with_name(f"checks_{name.split('.')[0]}.py")
    assert path.exists(), f"the answers to {name} belong in tests/{path.name}"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kind).get(name, [])


def said(capsys, name, answer):
    """The one line that check prints."""
    assert check(name, answer) is None
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.endswith("\n") and printed.out.count("\n") == 1, printed
    return printed.out.rstrip("\n")


@pytest.fixture
def temporary(monkeypatch):
    """A registry of its own for checkers that a test makes."""
    monkeypatch.setattr(checks, "CHECKERS", {})
    monkeypatch.setattr(checks, "IN_PLACE", set())


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
    @checker("99.step", in_place=True)
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
