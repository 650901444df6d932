"""Notebook 05, going deeper, as a learner meets it: every cell run; it has no widget."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_05_deeper(run):
    notebook = run("notebooks/05_freeze_or_fine_tune_deeper.ipynb")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 05\.\w+: still to do"))
    expect(checks).to_have_count(2)
    notebook.shot("notebook_05_deeper")
    notebook.check()
