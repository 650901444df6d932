"""Notebook 11 as a learner meets it: every cell runs, and one talks to the model before and after, and stops it."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def test_notebook_11_answers_before_and_after_and_stops(run):
    notebook = run("notebooks/11_language_model.ipynb")
    talk = notebook.page.locator(".widget-html", has=notebook.page.locator("[role=log]")).first
    notebook.button("Send").scroll_into_view_if_needed()
    question = notebook.page.locator(".widget-textarea textarea").first
    question.fill("The keeper saved two penalties.")
    notebook.button("Send").click()
    words = re.compile("after: (business|entertainment|politics|sports|tech)")
    expect(talk).to_contain_text(words, timeout=60_000)
    expect(notebook.button("Send")).to_be_enabled(timeout=60_000)
    notebook.shot("notebook_11_after")

    notebook.button("Clear").click()
    expect(talk).not_to_contain_text("after")
    notebook.choose(0, "before")
    question.fill("Tell me a long story of a ship and a lighthouse, in many words.")
    notebook.page.locator(".widget-text input").first.fill("")
    notebook.page.keyboard.press("Tab")
    notebook.button("Send").click()
    expect(talk).to_contain_text("before: ", timeout=60_000)
    expect(notebook.button("Send")).to_be_disabled()
    notebook.button("Stop").click()
    expect(notebook.button("Send")).to_be_enabled(timeout=60_000)
    notebook.shot("notebook_11_stopped")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 3
