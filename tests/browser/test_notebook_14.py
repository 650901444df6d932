"""Notebook 14 as a learner meets it: it trains, and the overlay follows its four controls."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"
PICTURE, OPACITY = range(2)  # sliders, from above
SHOW, ONLY = range(2)  # drop-downs


def test_notebook_14(run):
    notebook = run("notebooks/14_segmentation.ipynb")
    status = notebook.page.locator(".widget-html", has_text="step").first
    expect(status).to_contain_text("finished · step")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_14_worst")
    for act, name in (
        (lambda: notebook.press(slider=PICTURE, key="End"), "best"),
        (lambda: notebook.press(slider=OPACITY, key="Home"), "picture_alone"),
        (lambda: notebook.press(slider=OPACITY, key="End"), "classes_alone"),
        (lambda: notebook.choose(SHOW, "truth"), "truth"),
        (lambda: notebook.choose(ONLY, "road"), "road"),
        (lambda: notebook.choose(SHOW, "errors"), "errors"),
        (lambda: notebook.press(slider=PICTURE, key="Home"), "worst_errors"),
    ):
        notebook.after_change(image, act)
        notebook.shot(f"notebook_14_{name}")
        notebook.check()
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 14\.\w+: still to do"))
    expect(checks).to_have_count(5)
