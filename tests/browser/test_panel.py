"""The training panel as a person uses it: start, pause, change the rate, resume, stop, see an error, start again."""

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

# Records like those of fit, one every 20 ms; the rate is read before each step, and the first restart fails.
PANEL = """
import time
from types import SimpleNamespace as Record
from sftlib.training import Controls
from sftlib.widgets import LiveRun

controls, starts, made = Controls(feature_weight=0.5), [], []

def records(steps=2000, per_epoch=50):
    starts.append(1)
    for step in range(1, steps + 1):
        time.sleep(0.02)
        made.append(step)
        epoch, loss = (step - 1) // per_epoch + 1, 0.7 / (1 + step / 60)
        yield Record(step=step, steps=steps, epoch=epoch, loss=loss, task_loss=loss, feature_loss=0.0,
                     lr=1e-3 * controls.rate, n=32, examples_per_s=1600.0)
        if len(starts) == 2 and step == 30:
            raise RuntimeError("the cable was pulled")
        if step % per_epoch == 0:
            accuracy = {"loss": loss, "accuracy": 0.9 - 0.2 / epoch}
            yield Record(epoch=epoch, epochs=steps // per_epoch, train=accuracy, val=accuracy, key="accuracy",
                         higher_is_better=True)

panel = LiveRun(records, controls=controls)
display(panel)
"""
LOOK = """
import ipywidgets as w
look, told = w.Button(description="Look"), w.HTML("-")
look.on_click(lambda _: setattr(told, "value", f"made {len(made)}, recorded {len(panel.history['step'])}"))
display(look, told)
"""


def test_start_pause_change_the_rate_resume_stop_error_restart(open_notebook, write):
    notebook = open_notebook(write([PANEL, LOOK]))
    notebook.run_all()
    status, told = notebook.widget(".widget-html", 0), notebook.widget(".widget-html", -1)
    start, stop = notebook.button("Start"), notebook.button("Stop")

    start.click()
    expect(status).to_contain_text("epoch 2")
    expect(status).to_contain_text("lr 1.0e-03")
    notebook.shot("panel_running")

    notebook.button("Pause").click()
    expect(status).to_contain_text("paused · step ")
    notebook.button("Look").click()
    expect(told).to_contain_text("made ")
    before = told.inner_text()
    made, recorded = (int(word) for word in before.replace(",", "").split()[1::2])
    assert made == recorded  # everything done is drawn
    notebook.press(slider=0, key="Home")  # α × 0.001; it takes effect with the next step
    expect(notebook.widget(".widget-readout", 0)).to_have_text("0.00100")
    notebook.shot("panel_paused")
    notebook.button("Look").click()
    notebook.check()
    assert told.inner_text() == before  # not one step was made in the meantime
    expect(status).to_contain_text("lr 1.0e-03")

    notebook.button("Resume").click()
    expect(status).to_contain_text("lr 1.0e-06")
    expect(notebook.page.locator("svg text", has_text="α × 0.001")).to_have_count(1)
    stop.click()
    expect(status).to_contain_text("stopped · step ")
    expect(notebook.button("Pause")).to_be_disabled()
    notebook.shot("panel_stopped")

    start.click()
    alert = notebook.widget("[role=alert]")
    expect(alert).to_contain_text("RuntimeError: the cable was pulled")
    expect(status).to_contain_text("failed · step 30/2000")
    expect(start).to_be_enabled()
    notebook.shot("panel_failed")

    start.click()
    expect(status).to_contain_text("epoch 2")
    expect(alert).to_have_count(0)
    stop.click()
    expect(status).to_contain_text("stopped · step ")
    notebook.check()
