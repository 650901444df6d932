"""Notebook 12 as a learner meets it: every cell runs, sounds can be played, and one's own recording is heard."""

import struct

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect


def wav(samples, rate):
    """16-bit samples, rate in Hz -> bytes of a WAV file"""
    data = struct.pack(f"<{len(samples)}h", *samples)
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    parts = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


def test_notebook_12(run, tmp_path):
    notebook = run("notebooks/12_speech.ipynb")
    assert notebook.page.locator(".jp-OutputArea audio").count() >= 4
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_12_first")
    buzz = [8_000 if t % 80 < 40 else -8_000 for t in range(9_000)]
    (tmp_path / "mine.wav").write_bytes(wav(buzz, 8_000))

    button = notebook.widget("button.widget-upload")  # not of the class of other buttons

    def upload():
        with notebook.page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(tmp_path / "mine.wav")

    notebook.after_change(image, upload)
    expect(button).to_contain_text("(1)")
    notebook.shot("notebook_12_own_voice")
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 5
