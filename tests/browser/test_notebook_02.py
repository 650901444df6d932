"""Notebook 02 as a learner meets it: every cell run, every control of its widget moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

NETWORKS = ("ResNet-50", "GRU", "Transformer", "DeepLab", "Faster R-CNN", "SqueezeNet")


def test_notebook_02(run):
    notebook = run("notebooks/02_decoupling.ipynb")
    image, readout = notebook.widget("img.widget-image"), notebook.widget(".widget-readout")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_02_first")
    notebook.after_change(image, lambda: notebook.press(slider=0, key="Home"))
    expect(readout).to_have_text("1")
    for name in NETWORKS:
        notebook.after_change(image, lambda name=name: notebook.choose(0, name))
        notebook.after_change(image, lambda: notebook.press(slider=0))  # one stage more belongs to f
        notebook.shot(f"notebook_02_{name}")
        notebook.after_change(image, lambda: notebook.press(slider=0, key="ArrowLeft"))
    notebook.check()

    notebook.press(slider=0, key="End")
    expect(readout).to_have_text("5")
    notebook.after_change(image, lambda: notebook.choose(0, "GRU"))  # three stages: the cut moves inside them
    expect(readout).to_have_text("2")
    assert notebook.page.get_by_text("still to do").count() == 5
