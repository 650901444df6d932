"""Notebook 12 as a learner meets it: every cell runs, sounds can be played, and one's own recording is heard."""

import io
import wave

import pytest

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from playwright.sync_api import expect

from sftlib.datasets import spoken_words

SEEN_MS = 20_000


def spoken(word):
    """A word -> bytes of a WAV file as a recorder writes it: two channels of 16 bits at 44.1 kHz"""
    split = spoken_words.load(words=(word,), synthesis=spoken_words.Synthesis(counts={"train": 1, "val": 0, "test": 0}))
    (samples, rate), _ = split.train[0]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(2 * rate)
        heard = (samples * 32_767).round().short()
        twice = heard.repeat_interleave(4)  # each sample twice, in both channels
        out.writeframes(twice.numpy().astype("<i2").tobytes())
    return file.getvalue()


def test_notebook_12(run, tmp_path):
    notebook = run("notebooks/12_speech.ipynb")
    assert notebook.page.locator(".jp-OutputArea audio").count() >= 3
    image = notebook.widget("img.widget-image")
    image.scroll_into_view_if_needed()
    notebook.shot("notebook_12_first")
    (tmp_path / "seven.wav").write_bytes(spoken("seven"))
    (tmp_path / "nine.wav").write_bytes(spoken("nine"))
    (tmp_path / "song.wav").write_bytes(b"ID3\x04 this is no WAV file")
    button = notebook.widget("button.widget-upload")  # not of the class of other buttons

    def upload(name):
        with notebook.page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(tmp_path / name)

    notebook.after_change(image, lambda: upload("seven.wav"))
    expect(button).to_contain_text("(1)")
    notebook.shot("notebook_12_own_voice")
    notebook.check()

    alert = notebook.page.get_by_role("alert").filter(has_text="ValueError")
    expect(alert).to_have_count(0)
    before = image.get_attribute("src")
    upload("song.wav")
    expect(alert).to_contain_text("song.wav: no WAV file", timeout=SEEN_MS)
    expect(alert).to_contain_text("choose another file")
    assert image.get_attribute("src") == before  # what was heard last still stands there
    notebook.shot("notebook_12_wrong_file")
    notebook.page.wait_for_function("window.unanswered.size === 0")
    assert len(notebook.errors) == 1 and "song.wav" in notebook.errors[0]
    notebook.page.evaluate("window.kernelErrors = []")

    notebook.after_change(image, lambda: upload("nine.wav"))
    expect(alert).to_have_count(0)
    notebook.check()
    assert notebook.page.get_by_text("still to do").count() == 5
