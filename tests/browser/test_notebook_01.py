"""Notebook 01 as a learner meets it: every cell run, every control of its widget moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_01(run):
    notebook = run("notebooks/01_why_transfer.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_01_first")
    for view in ("no corners", "middle", "whole"):
        notebook.after_change(image, lambda view=view: notebook.choose(0, view))
        notebook.shot(f"notebook_01_{view.replace(' ', '_')}")
    for question in ("defect", "cell type"):
        notebook.after_change(image, lambda question=question: notebook.choose(1, question))
    for key in ("End", "ArrowLeft", "Home"):
        notebook.after_change(image, lambda key=key: notebook.press(slider=0, key=key))
    notebook.check()
    expect(notebook.widget(".widget-readout", 0)).to_have_text("1")
    notebook.shot("notebook_01_last")
    assert notebook.page.get_by_text("still to do").count() == 3
