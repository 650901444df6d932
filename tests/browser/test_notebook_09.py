"""Notebook 09 as a learner meets it: every cell runs, and the report follows the patient, in colour and words."""

import re

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

COLOURS = {"certain": "rgb(176, 58, 0)", "likely": "rgb(138, 90, 0)"}


def test_notebook_09(run):
    notebook = run("notebooks/09_bug_clinic.ipynb")
    page = notebook.page
    report = page.locator(".widget-html-content", has_text="checks,").last
    report.scroll_into_view_if_needed()
    expect(report).to_contain_text("pixel_scale")
    shown(report, "certain")
    notebook.shot("notebook_09_first")

    notebook.choose(0, "prompt_learned")
    expect(report).to_contain_text("prompt_in_the_loss", timeout=60_000)
    shown(report, "likely")
    notebook.shot("notebook_09_likely")

    page.locator(".widget-checkbox input").last.check()
    expect(report).to_contain_text("0 certain, 0 likely", timeout=60_000)
    expect(report.locator("td", has_text=re.compile("^(certain|likely)$"))).to_have_count(0)
    notebook.shot("notebook_09_mended")
    report.locator("summary", has_text="Not looked at").click()
    expect(report).to_contain_text("needs val_loader")

    notebook.check()
    checks = page.locator("pre", has_text=re.compile(r"⬜ 09\.\w+: still to do"))
    expect(checks).to_have_count(5)


def shown(report, sure):
    """How sure the doctor is stands there as a word, white on its colour"""
    cell = report.locator("td", has_text=re.compile(f"^{sure}$")).first
    expect(cell).to_be_visible()
    expect(cell).to_have_css("background-color", COLOURS[sure])
    expect(cell).to_have_css("color", "rgb(255, 255, 255)")
