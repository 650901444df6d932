"""Widgets and notebooks as a person meets them: JupyterLab in Chromium. Fixtures: conftest.py; harness: labtest.py.

A test of a notebook of the course is

    def test_notebook_00(run):
        notebook = run("notebooks/00_start_here.ipynb")   # copied, opened, every cell run, no error published
        notebook.button("Start").click()
        expect(notebook.widget(".widget-html", 0)).to_contain_text("finished", timeout=60_000)
"""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from labtest import write_notebook
from playwright.sync_api import expect

EXPLORER = """
import ipywidgets as w
from sftlib.plotting import use_style
from sftlib.widgets import Explorer
use_style()

def update(settings):
    if settings["degree"] == 5:
        raise ValueError("degree 5 is one too many")
    return [k ** settings["degree"] * settings["sign"] for k in range(8)]

def plot(ax, values):
    ax.plot(values)
    ax.set(xlabel="k", ylabel="k to the degree")

controls = {
    "degree": w.IntSlider(value=1, min=1, max=5, description="degree of the curve"),
    "sign": w.Dropdown(options={"upwards": 1, "downwards": -1}, description="direction"),
}
explorer = Explorer(controls, update, plot, figsize=(6, 3))
display(explorer)
"""

STILL, BOTH = "explorer.still()", "display(explorer, explorer.still())"

# Records like those of fit, one every 10 ms, so that a person, and this test, is in time to press Stop.
LIVE_RUN = """
import time
from types import SimpleNamespace as Record
from sftlib.widgets import LiveRun

def records(epochs=5, per_epoch=100):
    steps = epochs * per_epoch
    for step in range(1, steps + 1):
        time.sleep(0.01)
        epoch = (step - 1) // per_epoch + 1
        loss = 0.7 / (1 + step / 60) + 0.05 * (step % 7 - 3) / 3
        yield Record(step=step, steps=steps, epoch=epoch, loss=loss, task_loss=loss, feature_loss=0.0, lr=1e-3,
                     n=32, examples_per_s=3200.0)
        if step % per_epoch == 0:
            train, val = {"loss": loss, "accuracy": 0.7 + 0.06 * epoch}, {"loss": loss, "accuracy": 0.7 + 0.04 * epoch}
            yield Record(epoch=epoch, epochs=epochs, train=train, val=val, key="accuracy", higher_is_better=True)

panel = LiveRun(records)
display(panel)
"""
RUN_IN_CELL = """
in_cell = LiveRun(lambda: records(epochs=3, per_epoch=10))
display(in_cell)
history = in_cell.run()
print(len(history["loss"]), "steps")
"""


@pytest.fixture(scope="module")
def playground(open_in_lab, lab_folder):
    """One notebook for all tests of widgets: a page with its kernel takes longer to open than the tests to run."""
    notebook = open_in_lab(write_notebook([EXPLORER, STILL, LIVE_RUN, RUN_IN_CELL, STILL, BOTH], lab_folder))
    notebook.run_all()
    yield notebook
    notebook.close()


def test_a_run_in_the_cell_is_shown_to_its_end(playground):
    expect(playground.widget("pre", -1)).to_have_text("30 steps")
    status = playground.page.get_by_text("finished · step 30/30 · epoch 3")
    expect(status).to_be_visible()
    playground.check()


def test_moving_a_slider_and_choosing_from_a_list_redraw_the_figure(playground):
    image = playground.widget("img.widget-image")
    playground.after_change(image, lambda: playground.press(slider=0))
    expect(playground.widget(".widget-readout")).to_have_text("2")
    playground.after_change(image, lambda: playground.choose(0, "downwards"))
    assert image.bounding_box()["width"] == 600  # not stretched over the page
    playground.check()


def test_the_still_figure_is_left_out_beside_the_explorer_and_shown_elsewhere(playground):
    stills = playground.page.locator(".jp-RenderedImage img")
    expect(stills).to_have_count(3)  # in the cell after the explorer, far from it, in its own cell
    expect(stills.nth(1)).to_be_visible()
    for beside in (0, 2):
        expect(stills.nth(beside)).to_be_hidden()


def test_start_trains_live_and_stop_stops(playground):
    panel = playground.page.locator(".jp-OutputArea", has=playground.button("Start")).first
    status = panel.locator(".widget-html").first
    start, stop = panel.locator(".widget-button").nth(0), panel.locator(".widget-button").nth(2)
    start.click()
    expect(status).to_contain_text("step ")
    expect(start).to_be_disabled()
    expect(status).to_contain_text("epoch 3")  # it goes on
    expect(panel.get_by_role("img", name="accuracy: train 0.820, validation 0.780")).to_have_count(1)
    playground.shot("live_running")
    stop.click()
    expect(status).to_contain_text("stopped · step ")
    expect(start).to_be_enabled()
    expect(stop).to_be_disabled()
    playground.check()


def test_an_error_in_a_callback_is_shown_and_seen_by_the_harness(playground):
    playground.press(slider=0, key="End")
    alert = playground.widget("[role=alert]")
    expect(alert).to_contain_text("ValueError: degree 5 is one too many")
    playground.theme("JupyterLab Dark")
    playground.shot("explorer_dark")
    playground.widget("svg").scroll_into_view_if_needed()
    playground.shot("live_dark")
    with pytest.raises(AssertionError, match="the kernel published: ValueError: degree 5 is one too many"):
        playground.check()
    playground.press(slider=0, key="Home")
    expect(alert).to_have_count(0)


def test_an_error_in_a_cell_is_seen_by_the_harness(open_notebook, write):
    notebook = open_notebook(write(["1 / 0"]))
    with pytest.raises(AssertionError, match="the kernel published: ZeroDivisionError"):
        notebook.run_all()
