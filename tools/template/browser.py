"""Notebook NN as a learner meets it: every cell runs, and the widget follows its controls."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")


def test_notebook_NN(run):
    notebook = run("notebooks/NN_topic.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_NN_first")
    notebook.after_change(image, lambda: notebook.press(slider=0, key="End"))
    notebook.shot("notebook_NN_last")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 1
