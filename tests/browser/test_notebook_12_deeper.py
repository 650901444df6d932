"""Notebook 12, going deeper, as a learner meets it: every cell run, and the strings can be played."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_12_deeper(run):
    notebook = run("notebooks/12_speech_deeper.ipynb")
    assert notebook.page.locator(".jp-OutputArea audio").count() == 1
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 12\.\w+: still to do"))
    expect(checks).to_have_count(3)
    notebook.shot("notebook_12_deeper")
    notebook.check()
