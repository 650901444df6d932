"""Notebook 03 as a learner meets it: every cell run, every control of its widget moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_03(run):
    notebook = run("notebooks/03_combined_loss.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_03_first")
    moves = (
        ("angle", ("Home", "End", "ArrowLeft")),
        ("steps", ("Home", "ArrowRight", "End")),
    )  # each changes the picture
    for slider, (name, keys) in enumerate(moves):
        for key in keys:
            notebook.after_change(image, lambda slider=slider, key=key: notebook.press(slider=slider, key=key))
        notebook.shot(f"notebook_03_{name}")
    notebook.after_change(image, lambda: notebook.choose(0, "may be negative"))
    notebook.check()
    expect(notebook.widget(".widget-readout", 0)).to_have_text("170")
    expect(notebook.widget(".widget-readout", 1)).to_have_text("100")
    notebook.shot("notebook_03_last")
    assert notebook.page.get_by_text("still to do").count() == 3
