"""Notebook 13 as a learner meets it: every cell runs, and threshold, picture and model redraw the widget."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"
THRESHOLD, PICTURE = range(2)  # the sliders, from above


def test_notebook_13(run):
    notebook = run("notebooks/13_detection.ipynb")
    image = notebook.page.locator(AREA).locator("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_13_first")
    for act, name in (
        (lambda: notebook.press(slider=THRESHOLD, key="Home"), "every_box"),
        (lambda: notebook.press(slider=THRESHOLD, key="End"), "the_surest"),
        (lambda: notebook.press(slider=THRESHOLD, key="Home"), "every_box_again"),
        (lambda: notebook.press(slider=PICTURE, key="End"), "last_picture"),
        (lambda: notebook.choose(0, "from scratch"), "from_scratch"),
    ):
        notebook.after_change(image, act)
        notebook.check()
        notebook.shot(f"notebook_13_{name}")
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 13\.\w+: still to do"))
    expect(checks).to_have_count(5)
