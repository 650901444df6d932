"""Experiments resume where they stopped, and a row can be computed again."""

import csv
import sys

import pytest

from tools.experiments import run as experiments

FAKE = '''"""A tiny experiment."""
SEEDS = range(3)
CALLS = []

def settings():
    return [{"rate": 0.5, "kind": "a, b"}, {"rate": 0.25, "kind": "plain"}]

def run(setting, seed):
    CALLS.append((setting["rate"], seed))
    STOP
    return {"loss": setting["rate"] * (seed + 2)}
'''


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where the fake experiment is and where its results go."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a test changes it twice in a second, to the same size
    (tmp_path / "tools" / "experiments").mkdir(parents=True)
    (tmp_path / "tools" / "experiments" / "fake.py").write_text(FAKE.replace("STOP", ""), encoding="utf-8")
    return {"here": tmp_path / "tools" / "experiments", "results": tmp_path / "results"}


def rows(folders):
    with open(folders["results"] / "fake.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_seed_of_every_setting_becomes_a_row(folders, capsys):
    assert experiments.main(["fake"], **folders) == 0
    found = [(r["seed"], r["rate"], r["kind"], float(r["loss"])) for r in rows(folders)]
    assert found == [(str(s), str(r), k, r * (s + 2)) for s in range(3) for r, k in ((0.5, "a, b"), (0.25, "plain"))]
    assert list(rows(folders)[0]) == ["seed", "rate", "kind", "loss", "seconds", "code", "machine"]
    assert all(len(r["code"]) == 12 and "cores" in r["machine"] for r in rows(folders))


def test_rows_already_there_are_not_run_again(folders, capsys):
    assert experiments.run("fake", **folders, limit=2) == 2
    before = (folders["results"] / "fake.csv").read_bytes()
    assert experiments.run("fake", **folders) == 4
    assert experiments.run("fake", **folders) == 0
    assert experiments.run("fake", **folders, seeds=5) == 4
    assert (folders["results"] / "fake.csv").read_bytes().startswith(before)
    assert [r["seed"] for r in rows(folders)] == list("0011223344")


def test_an_interrupted_run_keeps_its_rows_and_goes_on(folders, capsys):
    path = folders["here"] / "fake.py"
    path.write_text(FAKE.replace("STOP", "if len(CALLS) == 4: raise KeyboardInterrupt"), encoding="utf-8")
    assert experiments.main(["fake"], **folders) == 130
    assert len(rows(folders)) == 3 and "goes on from here" in capsys.readouterr().out
    path.write_text(FAKE.replace("STOP", ""), encoding="utf-8")
    assert experiments.main(["fake"], **folders) == 0
    assert [r["seed"] for r in rows(folders)] == list("001122")
    assert "made by other code" in capsys.readouterr().out


def test_a_line_cut_off_by_a_crash_is_run_again(folders, capsys):
    experiments.run("fake", **folders)
    path = folders["results"] / "fake.csv"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-9], encoding="utf-8")
    assert experiments.run("fake", **folders) == 1
    stable = ("seed", "rate", "kind", "loss")
    assert [[r[k] for k in stable] for r in rows(folders)] == [
        [r[k] for k in stable] for r in csv.DictReader(whole.splitlines())
    ]


def test_a_header_cut_off_by_a_crash_is_written_again(folders, capsys):
    folders["results"].mkdir()
    (folders["results"] / "fake.csv").write_text("seed,ra", encoding="utf-8")
    assert experiments.run("fake", **folders, limit=1) == 1
    assert rows(folders)[0]["loss"] == "1.0"


def test_a_stored_row_can_be_computed_again(folders, capsys):
    experiments.run("fake", **folders)
    stored, new = experiments.recompute("fake", 3, **folders)
    assert new == {"loss": 0.75} and stored == {"loss": "0.75"}


def test_a_changed_experiment_does_not_mix_with_old_rows(folders, capsys):
    experiments.run("fake", **folders)
    path = folders["here"] / "fake.py"
    path.write_text(FAKE.replace("STOP", "").replace('"kind"', '"sort"'), encoding="utf-8")
    assert experiments.main(["fake"], **folders) == 1
    assert "the experiment has changed" in capsys.readouterr().out
    path.write_text(FAKE.replace("STOP", "").replace('"loss"', '"error"'), encoding="utf-8")
    assert experiments.main(["fake", "--seeds", "5"], **folders) == 1
    assert "rename the old file" in capsys.readouterr().out


@pytest.mark.parametrize("old, new", [('"rate": 0.5, ', ""), ('"kind"', '"seed"'), ('"loss":', '"rate":')])
def test_columns_that_clash_are_refused(folders, old, new, capsys):
    (folders["here"] / "fake.py").write_text(FAKE.replace("STOP", "").replace(old, new), encoding="utf-8")
    assert experiments.main(["fake"], **folders) == 1


def test_the_list_shows_what_is_done(folders, capsys):
    experiments.run("fake", **folders, limit=2)
    capsys.readouterr()
    assert experiments.main(["--list"], **folders) == 0
    assert capsys.readouterr().out == "fake: 2 of 6 rows. A tiny experiment.\n"
    assert experiments.main(["other"], **folders) == 1
    assert "expected one of: fake" in capsys.readouterr().out


def test_code_version_changes_with_the_experiment_and_only_then(folders):
    version = experiments.code_version(experiments.load("fake", folders["here"]))
    assert version == experiments.code_version(experiments.load("fake", folders["here"]))
    path = folders["here"] / "fake.py"
    path.write_text(path.read_text(encoding="utf-8") + "x = 3\n", encoding="utf-8")
    assert version != experiments.code_version(experiments.load("fake", folders["here"]))


def versions(folders, edits):
    """Edits of files of the tools folder, one after the other -> the code version after each."""
    module, found = experiments.load("fake", folders["here"]), []
    for name, text in edits:
        (folders["here"] / name).write_text(text, encoding="utf-8")
        found.append(experiments.code_version(module))
    return found


def test_code_version_changes_with_what_the_experiment_imports_of_tools_directly_or_not(folders):
    own = FAKE.replace("STOP", "from tools.experiments import helper_one")
    first, one, two, other = versions(
        folders,
        [
            ("fake.py", own),
            ("helper_one.py", "from tools.experiments import helper_two\n"),
            ("helper_two.py", "x = 2\n"),
            ("helper_three.py", "x = 3\n"),
        ],
    )
    assert len({first, one, two}) == 3 and other == two
    assert versions(folders, [("helper_two.py", "x = 5\n")]) != [two]


def test_code_version_does_not_depend_on_what_else_is_imported_in_the_process(folders, monkeypatch):
    own = FAKE.replace("STOP", "from sftlib import schedules")
    (version,) = versions(folders, [("fake.py", own)])
    monkeypatch.delitem(sys.modules, "sftlib.metrics", raising=False)
    assert versions(folders, [("fake.py", own)]) == [version]
    assert versions(folders, [("fake.py", own.replace("schedules", "metrics"))]) != [version]


def test_the_sources_of_an_experiment_are_its_own_and_those_of_what_it_imports():
    found = experiments.sources(experiments.HERE / "search.py")
    names = {p.relative_to(experiments.ROOT).as_posix() for p in found}
    assert {"tools/experiments/strategy_grid.py", "sftlib/search.py", "sftlib/datasets/photo_details.py"} <= names
    assert not [n for n in names if not n.startswith(("sftlib/", "tools/"))]
    assert "tools/experiments/elpv.py" not in names and "sftlib/widgets/live.py" not in names
