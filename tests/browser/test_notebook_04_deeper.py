"""Notebook 04, going deeper, in JupyterLab: every cell runs, and the walk on the map follows every control."""

import re

from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"  # the explorer; the still picture after it is an ordinary output


def test_notebook_04_deeper(run):
    notebook = run("notebooks/04_gradient_update_deeper.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    for act in (
        lambda: notebook.press(slider=0),
        lambda: notebook.press(slider=0, key="End"),  # α so large that the walk leaves the map at once
        lambda: notebook.press(slider=0, key="Home"),
        lambda: notebook.press(slider=1, key="End"),
        lambda: notebook.press(slider=1, key="Home"),
        lambda: notebook.choose(0, "on the wall"),
        lambda: notebook.choose(0, "across the valley"),
    ):
        notebook.after_change(image, act)
        notebook.check()
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    assert image.bounding_box()["width"] == 750
    notebook.shot("notebook_04_deeper_explorer")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 04\.\w+: still to do"))
    expect(checks).to_have_count(2)
