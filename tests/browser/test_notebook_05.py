"""Notebook 05 in JupyterLab: every cell runs, the depth slider redraws, and a live run shows its cross."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"


def test_notebook_05(run):
    notebook = run("notebooks/05_freeze_or_fine_tune.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_05_first")
    for key in ("Home", "End", "ArrowLeft"):  # nothing frozen, all of f frozen, up to stage3
        notebook.after_change(image, lambda key=key: notebook.press(slider=0, key=key))
        notebook.check()
        notebook.shot(f"notebook_05_{key}")
    tick = notebook.page.locator(AREA).locator("input[type=checkbox]")
    notebook.after_change(image, tick.check)  # trains above stage3
    notebook.check()
    notebook.shot("notebook_05_live")
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 05\.\w+: still to do"))
    expect(checks).to_have_count(3)
