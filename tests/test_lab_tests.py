"""`python lab.py test`: jobs that run two at a time, and one summary for all of them."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import importlib
import sys

import pytest
from lab_course import HERE, course, modules  # noqa: F401


@pytest.fixture
def suite(course, monkeypatch):
    """A course with tests of its own, run by this Python."""
    tests = importlib.import_module("lab_tests")
    monkeypatch.setattr(tests, "venv_python", lambda: sys.executable)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest alone starts in a tenth of the time
    for notebook in (course.root / "notebooks").glob("*.ipynb"):
        notebook.unlink()
    (course.root / "pyproject.toml").write_text("")
    write(
        course,
        "test_good.py",
        "import pytest\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): pytest.skip('x')\n",
    )
    write(course, "browser/test_page.py", "def test_d(): pass\n")
    course.tests = tests
    return course


def write(course, name, text):
    file = course.root / "tests" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_all_that_passes_is_added_up_and_the_output_of_each_is_kept_apart(suite, capfd):
    assert suite.tests.run_all() == 0
    lines = capfd.readouterr().out.strip().splitlines()
    assert lines[0].startswith("2 jobs") and "35 minutes" in lines[0]
    assert lines[-1].rsplit(" in ", 1)[0] == "3 passed, 1 skipped"
    names = ("test_good.py", "test_page.py")
    good, page = (next(i for i, line in enumerate(lines) if name in line) for name in names)
    starts = [i for i, line in enumerate(lines) if "test session starts" in line]
    assert len(starts) == 2 and (starts[0] < good < starts[1] < page or starts[0] < page < starts[1] < good)


@pytest.mark.parametrize(
    "text, words",
    [
        ("def test_e(): assert 0\n", "1 failed, 3 passed, 1 skipped"),
        ("1 / 0\n", "3 passed, 1 skipped, 1 error"),
        ("import os\ndef test_e(): os._exit(7)\n", "3 passed, 1 skipped, 1 jobs without an end"),
        ("import os\ndef test_e(): os._exit(0)\n", "3 passed, 1 skipped, 1 jobs without an end"),
        ("", "3 passed, 1 skipped"),
    ],
    ids=["fails", "no import", "dies", "leaves", "is empty"],
)
def test_one_bad_job_decides_the_exit_status(suite, capfd, text, words):
    write(suite, "test_bad.py", text)
    assert (suite.tests.run_all() != 0) == (words != "3 passed, 1 skipped")
    assert capfd.readouterr().out.strip().splitlines()[-1].rsplit(" in ", 1)[0] == words


def test_every_test_of_the_course_is_in_exactly_one_job(monkeypatch, modules):
    tests = importlib.import_module("lab_tests")
    monkeypatch.setattr(modules[2], "ROOT", str(HERE))
    found = sorted(name for job in tests.jobs() for name in job)
    expected = [*HERE.glob("tests/test_*.py"), *HERE.glob("notebooks/*.ipynb"), *HERE.glob("tests/browser/test_*.py")]
    assert found == sorted(map(str, expected))


def test_no_more_than_two_run_at_once(suite, monkeypatch):
    for number in range(5):
        write(suite, f"test_{number}.py", "def test_f(): pass\n")
    running, most = [], []

    class Process:
        returncode = 0

        def poll(self):
            most.append(len(running))
            running.remove(self)
            return 0

    def start(job):
        running.append(Process())
        output = suite.tests.tempfile.TemporaryFile()
        output.write(b"=== 1 passed in 0.1s ===")
        return running[-1], output

    monkeypatch.setattr(suite.tests, "start", start)
    assert suite.tests.run_all() == 0 and max(most) == 2


def test_a_named_test_runs_in_one_pytest(suite, monkeypatch):
    monkeypatch.setattr(suite.lab, "run_all", lambda: 9)
    assert suite.lab.test([]) == 9
    suite.lab.test(["tests/test_good.py", "-x"])
    assert suite.commands[-1][1:] == ["-m", "pytest", "tests/test_good.py", "-x"]
    monkeypatch.setattr(suite.lab.os, "cpu_count", lambda: 1)
    suite.lab.test([])
    assert suite.commands[-1][1:] == ["-m", "pytest"]
