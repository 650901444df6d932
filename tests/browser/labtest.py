"""Run notebooks in a real JupyterLab in a real Chromium, and record every error that a kernel publishes.

    with lab(folder) as open_notebook:          # a fresh server that reads none of your own settings
        notebook = open_notebook("00_start.ipynb")  # a path below `folder`: give it copies, never the repository
        notebook.run_all()
        notebook.button("Start").click()
        notebook.shot("start")                  # build/shots/start.png

Needs jupyterlab, playwright and a Chromium, Chrome or Edge: the one that CHROMIUM names, or one in the usual places.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat.v4 as v4
from playwright.sync_api import expect, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = REPOSITORY / "build" / "shots"  # ignored by git
START_S, CELLS_MS, SEEN_MS = 60, 180_000, 20_000  # limits: server, all cells of a notebook, something to appear
COMMANDS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # render every cell, not only visible ones
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}

# The kernel is awaited, not the "idle" sign, which comes before the session exists. Cells are trusted as they are for
# a learner who ran them. The errors of callbacks reach no output, but they pass here. `unanswered` holds the requests,
# clicks among them, that the kernel has not yet done with: their errors come before its "idle" for each. A cell
# tagged raises-exception may fail.
CONNECT = """async () => {
  const app = window.jupyterapp; await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  for (const cell of panel.content.model.cells) cell.trusted = true;
  window.kernelErrors = []; window.unanswered = new Set();
  const fails = new Set(), requested = new Set();  // cells that shall fail, and the requests to run them
  for (const cell of panel.content.model.cells)
    if ((cell.getMetadata('tags') || []).includes('raises-exception')) fails.add(cell.id);
  panel.sessionContext.session.kernel.anyMessage.connect((_, {msg, direction}) => {
    if (direction === 'send' && msg.channel === 'shell') window.unanswered.add(msg.header.msg_id);
    if (direction === 'send' && fails.has(msg.metadata.cellId)) requested.add(msg.header.msg_id);
    if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle')
      window.unanswered.delete(msg.parent_header.msg_id);
  });
  panel.sessionContext.iopubMessage.connect((_, message) => {
    if (message.header.msg_type === 'error' && !requested.has(message.parent_header.msg_id))
      window.kernelErrors.push(message.content.ename + ': ' + message.content.evalue);
  });
}"""
RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)"  # after the last cell
SHUT_DOWN = "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"
THEME = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"


def find_chromium():
    """-> path of a browser of the Chromium family, or None"""
    named = os.environ.get("CHROMIUM")
    found = (shutil.which(command) for command in COMMANDS)
    return named or next(filter(None, found), None) or next((p for p in PLACES if Path(p).exists()), None)


def copy_notebook(path, folder):
    """path of a notebook below the repository, folder -> name of its copy there"""
    shutil.copyfile(REPOSITORY / path, folder / Path(path).name)
    return Path(path).name


def write_notebook(cells, folder):
    """sources of code cells, folder -> name of a new notebook there"""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel})
    name = f"generated_{len(list(folder.glob('generated_*')))}.ipynb"
    (folder / name).write_text(v4.writes(notebook), encoding="utf-8")
    return name


class Notebook:
    """A notebook open in the browser. ``page`` is Playwright's; ``errors`` is what the kernel published so far."""

    def __init__(self, page):
        self.page = page

    @property
    def errors(self):
        return self.page.evaluate("window.kernelErrors")

    def run_all(self):
        """Run every cell and wait for the last one; an error in any of them fails."""
        self.page.evaluate(RUN_ALL)
        self.check()

    def check(self):
        """Fail on any error that the kernel has published, in callbacks as in cells, and on any widget not shown."""
        self.page.wait_for_function("window.unanswered.size === 0")
        assert self.errors == [], "the kernel published: " + "; ".join(self.errors)
        assert self.page.get_by_text("Click to show javascript error").count() == 0, "a widget cannot be shown"

    def button(self, text):
        """The buttons of widgets with this text (by role they are not found: the icon is part of their name)."""
        return self.page.locator(".widget-button", has_text=text)

    def widget(self, css, number=0):
        """The `number`-th match of a CSS selector among the outputs: "img.widget-image", ".widget-html", "svg" …"""
        return self.page.locator(f".jp-OutputArea {css}").nth(number)

    def press(self, slider, key="ArrowRight"):
        """Press a key on the `slider`-th slider of the page, as a person does."""
        self.page.locator(".noUi-handle").nth(slider).focus()
        self.page.keyboard.press(key)

    def choose(self, dropdown, option):
        """Choose an option by its text in the `dropdown`-th drop-down list of the outputs."""
        self.widget("select", dropdown).select_option(label=option)

    def after_change(self, image, act):
        """Do `act()` and wait until the source of `image` (a locator) is another one: the widget was redrawn."""
        before = image.get_attribute("src")
        act()
        expect(image).not_to_have_attribute("src", before, timeout=SEEN_MS)

    def theme(self, name):
        """Change to "JupyterLab Dark" or "JupyterLab Light"."""
        self.page.evaluate(THEME, name)
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def shot(self, name):
        """Save what the window shows as build/shots/NAME.png; look at it: assertions do not see ugliness."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def close(self):
        """End the kernel and the page."""
        self.page.evaluate(SHUT_DOWN)
        self.page.context.close()


@contextlib.contextmanager
def lab(folder):
    """Yield ``open_notebook(path below folder) -> Notebook``, on a fresh JupyterLab and a fresh browser."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own,
        _server(Path(folder), Path(own)) as (url, token),
    ):
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)

            def open_notebook(path):
                page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
                page.set_default_timeout(CELLS_MS)
                page.goto(f"{url}/doc/tree/{path}?token={token}")
                page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=60_000)
                page.evaluate(CONNECT)
                return Notebook(page)

            yield open_notebook
            browser.close()


@contextlib.contextmanager
def _server(folder, own):
    for name, value in SETTINGS.items():
        file = own / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, token, log = f"http://127.0.0.1:{port}", secrets.token_hex(16), own / "server.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               f"--FileCheckpoints.checkpoint_dir={own / 'checkpoints'}", "--expose-app-in-browser"]  # fmt: skip
    with log.open("wb") as out, subprocess.Popen(command, env=_environment(own), stdout=out, stderr=out) as server:
        try:
            _await(server, f"{url}/api/status?token={token}", log)
            yield url, token
        finally:
            _end(server, f"{url}/api/shutdown", token)


def _environment(own):
    """Nothing of the user's settings is read, and nothing is written into the home folder."""
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "data",
              "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
              "IPYTHONDIR": "ipython"}  # fmt: skip
    return os.environ | {name: str(own / place) for name, place in places.items()}


def _await(server, address, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=1).close()
            return
        time.sleep(0.05)  # a server that starts cannot be waited for in another way
    raise RuntimeError("JupyterLab did not start:\n" + log.read_text(encoding="utf-8", errors="replace"))


def _end(server, address, token):
    """Ask the server to end itself and its kernels, the same way on every system; kill it if it will not."""
    request = urllib.request.Request(address, data=b"", headers={"Authorization": f"token {token}"})
    with contextlib.suppress(OSError):
        urllib.request.urlopen(request, timeout=5).close()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
