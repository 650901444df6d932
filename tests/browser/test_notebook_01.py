"""Notebook 01 as a learner meets it: every cell run, every control of its widget moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_01(run):
    notebook = run("notebooks/01_why_transfer.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_01_first")
    for name in ("brightness", "pixels", "random f", "pretrained f"):
        notebook.after_change(image, lambda name=name: notebook.choose(0, name))
        notebook.shot(f"notebook_01_{name.replace(' ', '_')}")
    for question in ("defect", "cell_type"):
        notebook.after_change(image, lambda question=question: notebook.choose(1, question))
    for slider in (0, 1):
        for key in ("Home", "End", "ArrowLeft"):
            notebook.after_change(image, lambda slider=slider, key=key: notebook.press(slider=slider, key=key))
    notebook.check()
    expect(notebook.widget(".widget-readout", 0)).to_have_text("300")
    expect(notebook.widget(".widget-readout", 1)).to_have_text("24")
    notebook.shot("notebook_01_last")
    assert notebook.page.get_by_text("still to do").count() == 3
