"""Notebook 07 as a learner meets it: every cell run, every list of its widget changed."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")


def test_notebook_07(run):
    notebook = run("notebooks/07_which_pretrained_model.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_07_first")
    for dropdown, option in ((1, "H-score"), (0, "shapes"), (1, "ImageNet top-1"), (2, "frozen, probe"), (1, "LogME")):
        notebook.after_change(image, lambda d=dropdown, o=option: notebook.choose(d, o))
        notebook.shot(f"notebook_07_{dropdown}_{option.split()[0].strip(',')}")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 3
