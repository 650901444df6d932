"""tools/answers.py: the exercises of learners' notebooks run again, and what their checkers say is counted."""

import csv
import shutil

import nbformat
import pytest
from scripts import ROOT, script

answers = script("answers")
RIGHT = "return (logits.argmax(1) == y).double().mean().item()"
SETUP = "from sftlib.checks import check\nimport torch"


def learner(path, *cells):
    """A notebook of (tags, source, id) in code cells; id None: a cell of the learner's own"""
    made = [
        nbformat.v4.new_code_cell(text, metadata={"tags": [tag] if tag else []}, **({"id": own} if own else {}))
        for tag, text, own in cells
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=made)), encoding="utf-8")


def own_of(name, tag):
    """A cell of a notebook of the course that has the tag, or none where it is None"""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    return next(
        c for c in cells if c.cell_type == "code" and (tag in c.metadata.get("tags", ()) or not (tag or c.metadata))
    )


def test_the_course_has_an_exercise_under_each_name_once():
    names = [name for given in answers.course() for name in given.exercises]
    assert len(names) == len(set(names)) > 50
    assert {g.name: g.exercises for g in answers.course()}["00_start_here"] == ("00.accuracy",)


def test_what_checkers_say_of_learners_notebooks_whatever_their_names(tmp_path, capsys):
    trains = own_of("00_start_here", None)
    exercise = f'def accuracy(logits, y):\n    {RIGHT}\n\n\ncheck("00.accuracy", accuracy)'
    helped = 'check("00.accuracy", mine)\nprint("✅ 00.other: correct")'
    learner(
        tmp_path / "anna" / "renamed ü.ipynb", ("setup", SETUP, None), ("", "raise SystemError('trained')", trains.id),
        ("exercise", exercise, None),
    )  # fmt: skip
    learner(
        tmp_path / "ben.ipynb", ("setup", SETUP, None), ("", "def mine(logits, y):\n    return 0.5", None),
        ("", "1 / 0", None), ("exercise", helped, None),
    )  # fmt: skip
    learner(
        tmp_path / "cleo.ipynb", ("setup", SETUP, None), ("exercise", "x = ...\ncheck('02.cut', x)", None),
        ("exercise", "y = nothing\ncheck('02.sides', y)", None),
    )  # fmt: skip
    (tmp_path / "broken.ipynb").write_text("{")
    learner(tmp_path / "other.ipynb", ("", "print(2)", None))
    shutil.copytree(ROOT / "notebooks" / "solutions", tmp_path / "solutions")
    assert answers.main([str(tmp_path), "--out", str(tmp_path / "a.csv")]) == 0
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        found = {(row["file"], row["exercise"]): (row["mark"], row["words"]) for row in csv.DictReader(file)}
    assert found.pop(("anna/renamed ü.ipynb", "00.accuracy")) == ("✅", "correct")
    mark, words = found.pop(("ben.ipynb", "00.accuracy"))
    assert mark == "❌" and "0.5" in words
    assert found.pop(("cleo.ipynb", "02.cut")) == ("⬜", "still to do")
    assert found.pop(("cleo.ipynb", "02.sides")) == ("❌", "NameError: name 'nothing' is not defined")
    assert len(found) == 3 and set(found.values()) == {("–", "its check is gone")}
    said = capsys.readouterr().out
    assert "broken.ipynb: no notebook that can be read" in said and "other.ipynb: no exercise of this course" in said
    assert "00.accuracy: 1 ✅, 1 ❌\n  1 x " in said and "02.cut: 1 ⬜\n" in said


def test_a_cell_that_ends_the_kernel_costs_its_own_notebook_only(tmp_path):
    path = tmp_path / "dies.ipynb"
    learner(path, ("", "import os\nos._exit(3)", None), ("exercise", 'check("00.accuracy", 1)', None))
    (answer,) = answers.answers(path, path.name, answers.course())
    assert answer.mark == "❌" and "the kernel died" in answer.words


def test_the_commonest_mistakes_stand_first():
    some = [answers.Answer(f"{i}", "02.cut", "❌", "a" if i % 3 else "b") for i in range(7)]
    lines = list(answers.summary([*some, answers.Answer("8", "02.cut", "✅", "correct")]))
    assert lines == ["02.cut: 1 ✅, 7 ❌", "  4 x a", "  3 x b"]


@pytest.mark.parametrize("make, words", [(False, "does not exist"), (True, "no file ends with .ipynb")])
def test_a_folder_without_notebooks_is_told(make, words, tmp_path):
    where = tmp_path / "handed in"
    if make:
        where.mkdir()
    with pytest.raises(ValueError, match=words):
        answers.main([str(where)])
