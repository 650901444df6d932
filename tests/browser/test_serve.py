"""The page of tools/serve.py in a real browser: a picture chosen, a picture dropped, and what is none."""

import base64
import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("playwright", reason="browser tests need playwright: pip install -e .[test]")
from labtest import FLAGS, SHOTS, find_chromium
from playwright.sync_api import expect, sync_playwright

from sftlib.datasets.photo_details import photograph
from sftlib.strategies import load_trained, new, save_trained

CLASSES = ["a <b>bold</b> flower", "<img src=x onerror=\"document.title='run'\">", "temple"]
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def server(tmp_path):
    path = Path(__file__).parents[2] / "tools" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve_script", path)
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    torch.manual_seed(1)
    best = save_trained(tmp_path / "best.pt", new("squeezenet1_1", "probe", 3, size=96), "probe", CLASSES, size=96)
    with serve.Server(load_trained(best)) as server:
        yield server.started()
        server.shutdown()


@pytest.fixture
def page():
    if find_chromium() is None:
        pytest.skip("browser tests need Chromium, Chrome or Edge")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser.new_page(viewport={"width": 900, "height": 900})
        browser.close()


def test_a_picture_is_chosen_or_dropped_and_what_is_none_is_told(server, page, tmp_path):
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(server.url)
    for name in ("flower", "china"):
        Image.fromarray((photograph(name) * 255).astype("uint8")).save(tmp_path / f"{name}.jpg")
    (tmp_path / "text.jpg").write_bytes(b"<script>document.title = 'run'</script>")

    page.set_input_files("#file", tmp_path / "flower.jpg")
    expect(page.locator("#classes tr")).to_have_count(3, timeout=30_000)
    expect(page.locator("#pictures img")).to_have_count(2)
    assert set(page.locator("#classes td:first-child").all_inner_texts()) == set(CLASSES)
    shares = [float(text.rstrip(" %")) for text in page.locator("#classes td.p").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "serve_chosen.png")
    first = page.locator("#pictures img").first.get_attribute("src")

    page.evaluate(DROP, ["../../x.jpg", base64.b64encode((tmp_path / "china.jpg").read_bytes()).decode()])
    expect(page.locator("#pictures img").first).not_to_have_attribute("src", first, timeout=30_000)
    expect(page.locator("#classes tr")).to_have_count(3)

    page.set_input_files("#file", tmp_path / "text.jpg")
    expect(page.locator("#status")).to_contain_text("no picture that can be read", timeout=30_000)
    expect(page.locator("#pictures img")).to_have_count(0)
    page.screenshot(path=SHOTS / "serve_none.png")
    assert page.title() == "Which class?" and all(url.startswith((server.url, "data:")) for url in asked), asked
    assert [line for line in said if "422" not in line] == []
