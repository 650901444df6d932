"""Notebook 10, going deeper, as a learner meets it: every cell run; it has no widget."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_10_deeper(run):
    notebook = run("notebooks/10_text_deeper.ipynb")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 10\.\w+: still to do"))
    expect(checks).to_have_count(3)
    notebook.shot("notebook_10_deeper")
    notebook.check()
