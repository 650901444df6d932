"""Notebook 11, going deeper, as a learner meets it: every cell run; it has no widget."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_11_deeper(run):
    notebook = run("notebooks/11_language_model_deeper.ipynb")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 11\.\w+: still to do"))
    expect(checks).to_have_count(3)
    notebook.shot("notebook_11_deeper")
    notebook.check()
