"""Notebook 04 in JupyterLab: every cell runs, and the walk in the bowl follows every control."""

import re

from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"  # the explorer; the still picture after it is an ordinary output


def test_notebook_04(run):
    notebook = run("notebooks/04_gradient_update.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    for act in (
        lambda: notebook.press(slider=0, key="End"),  # α far above the limit: all points but the first leave the frame
        lambda: notebook.press(slider=0, key="Home"),
        lambda: notebook.press(slider=1, key="End"),
        lambda: notebook.press(slider=1, key="Home"),
        lambda: notebook.choose(0, "on the wall"),
        lambda: notebook.choose(0, "along the valley"),
    ):
        notebook.after_change(image, act)
        notebook.check()
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    assert image.bounding_box()["width"] == 900
    notebook.shot("notebook_04_explorer")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 04\.\w+: still to do"))
    expect(checks).to_have_count(4)
