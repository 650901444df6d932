"""Notebook 10 as a learner meets it: it trains in the panel, and the box classifies as one types."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

BOX = ".jp-OutputArea:has(input[type=text])"


def test_notebook_10(run):
    notebook = run("notebooks/10_text.ipynb")
    page, image = notebook.page, notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_10_first")
    box = page.locator(f"{BOX} input[type=text]").first
    for words in ("a terrible, terrible car", "The goalkeeper saved a penalty", ""):
        notebook.after_change(image, lambda words=words: box.fill(words))
    notebook.after_change(image, lambda: box.press_sequentially("not bad"))
    page.wait_for_timeout(500)  # the last key has reached the kernel,
    expect(page.get_by_text("(ipykernel) | Idle").first).to_be_visible(timeout=30_000)  # and is answered
    notebook.shot("notebook_10_not_bad")
    notebook.after_change(image, lambda: notebook.choose(0, "topics"))
    notebook.after_change(image, lambda: box.fill("The goalkeeper saved a penalty"))
    notebook.shot("notebook_10_topics")
    notebook.check()
    expect(page.locator("[role=alert]")).to_have_count(0)
    status = page.locator(".widget-html", has_text="step").first
    status.scroll_into_view_if_needed()
    expect(status).to_contain_text("finished · step")
    notebook.button("Start").click()
    expect(page.get_by_text("epoch 1 · loss").first).to_be_visible(timeout=60_000)
    notebook.button("Stop").click()
    expect(page.get_by_text("stopped · step").first).to_be_visible(timeout=60_000)
    notebook.shot("notebook_10_stopped")
    notebook.check()
    expect(page.locator("pre", has_text=re.compile(r"⬜ 10\.\w+: still to do"))).to_have_count(5)
