"""Notebook 00 as a newcomer meets it: everything runs, and the panel starts and stops."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_00_trains_then_starts_and_stops(run):
    notebook = run("notebooks/00_start_here.ipynb")
    status = notebook.page.locator(".widget-html", has_text="step").first
    expect(status).to_contain_text("finished · step")
    assert notebook.page.locator(".jp-OutputArea svg polyline").count() >= 3  # loss, smoothed, accuracies
    status.scroll_into_view_if_needed()
    notebook.shot("notebook_00_finished")

    notebook.button("Start").click()
    expect(notebook.page.get_by_text("epoch 1 · loss").first).to_be_visible(timeout=60_000)
    expect(notebook.button("Start")).to_be_disabled()
    notebook.button("Stop").click()
    expect(notebook.page.get_by_text("stopped · step").first).to_be_visible(timeout=60_000)
    expect(notebook.button("Start")).to_be_enabled()
    notebook.shot("notebook_00_stopped")
    notebook.check()
