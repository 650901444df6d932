"""The README's picture: notebook 00 in JupyterLab, its training panel in the middle of a run -> data/panel.png

python tools/screenshot.py      needs what the browser tests need: playwright, and Chromium, Chrome or Edge
"""

import io
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from labtest import lab  # noqa: E402

NOTEBOOK, PICTURE = ROOT / "notebooks" / "00_start_here.ipynb", ROOT / "data" / "panel.png"
PANEL = "panel = LiveRun(train)"
MOST_BYTES = 200_000
EPOCH = "epoch 3"  # of three: when it is taken


def up_to_the_panel():
    """Notebook 00 up to the cell that shows the panel, which waits there for Start."""
    notebook = nbformat.read(NOTEBOOK, 4)
    last = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith(PANEL))
    notebook.cells = notebook.cells[: last + 1]
    notebook.cells[-1].source = f"{PANEL}\ndisplay(panel)"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def small(png):
    """bytes of a PNG -> bytes of one with 256 colours"""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main():
    """Run the notebook, press Start, and take the picture in the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(up_to_the_panel(), Path(folder, NOTEBOOK.name))
        with lab(folder) as open_notebook:
            notebook = open_notebook(NOTEBOOK.name)
            notebook.page.set_viewport_size({"width": 1280, "height": 760})
            notebook.run_all()
            notebook.button("Start").click()
            status = notebook.page.locator(".widget-html", has_text=EPOCH).first
            status.wait_for()
            notebook.widget("svg:has(polyline)").evaluate("drawing => drawing.scrollIntoView({block: 'end'})")
            notebook.page.wait_for_timeout(3_000)  # some steps of that epoch
            notebook.check()
            png = small(notebook.page.screenshot())
            notebook.button("Stop").click()
            notebook.page.locator(".widget-html", has_text="stopped").first.wait_for()
            notebook.close()
    if len(png) > MOST_BYTES:
        raise SystemExit(f"the picture has {len(png)} bytes; at most {MOST_BYTES} are kept with the course")
    PICTURE.write_bytes(png)
    print(f"{PICTURE.relative_to(ROOT)}: {len(png):,} bytes")


if __name__ == "__main__":
    main()
