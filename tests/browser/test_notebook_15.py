"""Notebook 15 as a learner meets it: every cell runs, the confusion matrix opens its pictures, the page names one."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

from sftlib.datasets.drawn_shapes import draw


def test_notebook_15(run, tmp_path):
    notebook = run("notebooks/15_your_own_pictures.ipynb")
    status = notebook.page.locator(".widget-html", has_text="step").first
    expect(status).to_contain_text("finished · step")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_15_cell_of_the_matrix")
    notebook.after_change(image, lambda: notebook.choose(1, "3 poly functional"))
    notebook.after_change(image, lambda: notebook.choose(0, "3 poly functional"))
    notebook.shot("notebook_15_another_cell")
    Image.fromarray(draw(2, np.random.default_rng(0))).save(tmp_path / "shape.png")
    page = notebook.page.frame_locator(".jp-OutputArea iframe")
    page.locator("#file").set_input_files(tmp_path / "shape.png")
    expect(page.locator("#classes tr")).to_have_count(4, timeout=30_000)
    expect(page.locator("#pictures img")).to_have_count(2)
    notebook.page.locator(".jp-OutputArea iframe").scroll_into_view_if_needed()
    notebook.shot("notebook_15_page")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 5
