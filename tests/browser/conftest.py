"""One JupyterLab and one browser for all browser tests; a test opens notebooks with `run` or `open_notebook`."""

import os

import pytest


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory):
    """The folder the server shows. It is thrown away: nothing is ever written into the repository."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def open_in_lab(lab_folder):
    pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
    from labtest import find_chromium, lab

    if find_chromium() is None:
        reason = "browser tests need Chromium, Chrome or Edge; install one, or name it in the variable CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)  # where tests decide, a skipped one would pass unseen
        pytest.skip(reason)
    with lab(lab_folder) as open_notebook:
        yield open_notebook


@pytest.fixture
def open_notebook(open_in_lab, request):
    """open_notebook(path) -> Notebook, connected to its kernel; closed after the test, with a shot."""
    opened = []

    def open_one(path):
        opened.append(open_in_lab(path))
        return opened[-1]

    yield open_one
    for number, notebook in enumerate(opened):
        notebook.shot(request.node.name + (f"_{number}" if number else ""))
        notebook.close()


@pytest.fixture
def run(open_notebook, lab_folder):
    """run("notebooks/00_start.ipynb") or run([cell, cell, …]) -> Notebook with every cell run.

    A notebook of the repository is copied first. Any error that its kernel publishes, until the test ends, fails it.
    """
    from labtest import copy_notebook, write_notebook

    notebooks = []

    def run_one(what):
        path = copy_notebook(what, lab_folder) if isinstance(what, str) else write_notebook(what, lab_folder)
        notebooks.append(open_notebook(path))
        notebooks[-1].run_all()
        return notebooks[-1]

    yield run_one
    for notebook in notebooks:
        notebook.check()


@pytest.fixture
def write(lab_folder):
    """write([cell, cell, …]) -> path of a new notebook with these code cells, for `open_notebook`."""
    from labtest import write_notebook

    return lambda cells: write_notebook(cells, lab_folder)
