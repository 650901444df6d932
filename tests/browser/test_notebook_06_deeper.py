"""Notebook 06, going deeper, as a learner meets it: every cell run, the sliders of compiling moved."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")


def test_notebook_06_deeper(run):
    notebook = run("notebooks/06_training_on_a_gpu_deeper.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    for slider in range(3):
        for key in ("End", "Home"):
            notebook.after_change(image, lambda slider=slider, key=key: notebook.press(slider=slider, key=key))
    notebook.shot("notebook_06_break_even")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 2
