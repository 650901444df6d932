"""Notebook 08 as a learner meets it: every cell runs, and the advice follows every control."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"  # the explorer; the still picture after it is an ordinary output
TASK, COMPUTE = range(2)  # the drop-downs, from above


def test_notebook_08(run):
    notebook = run("notebooks/08_which_strategy.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_08_first")
    for act, name in (
        (lambda: notebook.press(slider=0, key="End"), "many_labels"),
        (lambda: notebook.press(slider=0, key="Home"), "few_labels"),
        (lambda: notebook.choose(TASK, "pixels that were seen"), "photographs"),
        (lambda: notebook.choose(COMPUTE, "seconds: cached features"), "seconds"),
        (lambda: notebook.choose(TASK, "not pictures at all"), "not_pictures"),
        (lambda: notebook.choose(COMPUTE, "a search over constants"), "search"),
    ):
        notebook.after_change(image, act)
        notebook.shot(f"notebook_08_{name}")
        notebook.check()
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 08\.\w+: still to do"))
    expect(checks).to_have_count(3)
