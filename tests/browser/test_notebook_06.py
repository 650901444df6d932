"""Notebook 06 as a learner meets it: every cell run, the panel started, paused, steered and stopped."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

SLOW_MS = 120_000


def test_notebook_06(run):
    notebook = run("notebooks/06_training_on_a_gpu.ipynb")
    scripted = notebook.page.locator(".jp-OutputArea", has=notebook.button("Start")).first
    expect(scripted.locator("svg text", has_text="α × 50")).to_have_count(1)
    expect(scripted.locator(".widget-html").first).to_contain_text("finished · step")
    scripted.scroll_into_view_if_needed()
    notebook.shot("notebook_06_scripted")

    yours = notebook.page.locator(".jp-OutputArea", has=notebook.button("Start")).last
    status, buttons = yours.locator(".widget-html").first, yours.locator(".widget-button")
    start, pause, stop = (buttons.nth(i) for i in range(3))
    start.scroll_into_view_if_needed()
    start.click()
    expect(status).to_contain_text("epoch 1 · loss", timeout=SLOW_MS)
    pause.click()
    expect(status).to_contain_text("paused · step ", timeout=SLOW_MS)
    yours.locator(".noUi-handle").first.focus()
    notebook.page.keyboard.press("Home")  # α × 0.001, from the next step on
    expect(pause).to_have_text("Resume")
    notebook.shot("notebook_06_paused")
    pause.click()
    expect(yours.locator("svg text", has_text="α × 0.001")).to_have_count(1, timeout=SLOW_MS)
    stop.click()
    expect(status).to_contain_text("stopped · step ", timeout=SLOW_MS)
    expect(start).to_be_enabled()
    notebook.shot("notebook_06_stopped")

    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 2
