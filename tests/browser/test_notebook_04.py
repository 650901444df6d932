"""Notebook 04 and its Going deeper in JupyterLab: every cell runs, and the explorer follows every control."""

import re

import pytest
from playwright.sync_api import expect

AREA = ".jp-OutputArea:has(.noUi-handle)"  # the explorer; the still picture after it is an ordinary output


@pytest.mark.parametrize(
    "name, width, starts, to_do",
    [
        # the walk in the bowl; α far above the limit: all points but the first leave the frame
        ("04_gradient_update", 900, ("on the wall", "along the valley"), 4),
        ("04_gradient_update_deeper", 750, ("on the wall", "across the valley"), 2),  # the walk on the map
    ],
)
def test_notebook_04(run, name, width, starts, to_do):
    notebook = run(f"notebooks/{name}.ipynb")
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    for slider, key in ((0, "End"), (0, "Home"), (1, "End"), (1, "Home")):
        notebook.after_change(image, lambda slider=slider, key=key: notebook.press(slider=slider, key=key))
        notebook.check()
    for start in starts:
        notebook.after_change(image, lambda start=start: notebook.choose(0, start))
        notebook.check()
    expect(notebook.page.locator(AREA).locator("[role=alert]")).to_have_count(0)
    assert image.bounding_box()["width"] == width
    notebook.shot(f"notebook_{name}")
    checks = notebook.page.locator("pre", has_text=re.compile(r"⬜ 04\.\w+: still to do"))
    expect(checks).to_have_count(to_do)
