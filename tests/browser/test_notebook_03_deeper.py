"""Notebook 03, going deeper, as a learner meets it: every cell run, every control of its widget moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_03_deeper(run):
    notebook = run("notebooks/03_combined_loss_deeper.ipynb")
    image, readouts = notebook.widget("img.widget-image"), notebook.widget(".widget-readout")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_03_deeper_first")
    for slider, name in enumerate(("lambda", "margin", "temperature", "steps")):
        for key in ("Home", "End", "ArrowLeft"):
            notebook.after_change(image, lambda slider=slider, key=key: notebook.press(slider=slider, key=key))
        notebook.shot(f"notebook_03_deeper_{name}")
    notebook.check()
    expect(readouts).to_have_text("9.50")
    expect(notebook.widget(".widget-readout", 3)).to_have_text("39")
    assert notebook.page.get_by_text("still to do").count() == 2
