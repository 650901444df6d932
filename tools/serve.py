"""A page on this computer that names the class of a picture and shows where the network looked.

    python tools/serve.py RUN                  RUN: the folder of a run of tools/train.py
    python tools/serve.py RUN --port 8015      then open the address that it prints; Ctrl-C ends it

Drop a picture on the page: nothing is stored and nothing leaves this computer. The server listens on 127.0.0.1 alone
and answers no page but its own. Of an upload it reads at most 20 MB and decodes only common formats of at most 40
million pixels; names of files are never read, and nothing of an upload is run or written.
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import math
import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sftlib.datasets.decode import FORMATS, decode
from sftlib.explaining import grad_cam
from sftlib.model import Model
from sftlib.strategies import load_trained

PAGE = Path(__file__).with_name("serve_page.html")
MOST_BYTES, MOST_PIXELS, SHOWN = 20 * 2**20, 40_000_000, 320  # SHOWN: pixels a side of the pictures on the page
SECONDS = 20  # that an upload may take
WARM = ((0.0, 0.0, 0.0), (0.5, 0.0, 0.6), (0.9, 0.3, 0.2), (1.0, 0.8, 0.1), (1.0, 1.0, 0.8))  # of a map, 0 to 1


class Refused(Exception):
    """A request that is not answered: the status, and why in words"""

    def __init__(self, status: HTTPStatus, words: str):
        super().__init__(words)
        self.status = status


def answer(model: Model, classes: list[str], size: int | None, data: bytes) -> dict:
    """The bytes of a picture -> {"classes": [[name, probability], …] in falling order, "picture", "looked": data URLs}

    ValueError for what is no picture, or too large a one.
    """
    refuse_many_pixels(data)
    picture = torch.from_numpy(decode(data, size)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    square = model.backbone.preprocess.square(picture)
    where = next(model.parameters()).device
    x = model.backbone.preprocess.normalise(square.to(where))
    with torch.inference_mode():
        p = model(x).double().softmax(1)[0].cpu()
    if not p.isfinite().all():
        raise ValueError("the network's output for it is not finite")
    order = p.argsort(descending=True).tolist()
    found = {"classes": [[classes[k], p[k].item()] for k in order], "picture": as_url(square[0])}
    with contextlib.suppress(ValueError):  # a network without maps: the page says so
        found["looked"] = as_url(laid_over(square[0], grad_cam(model, x)[0].cpu()))
    return found


def refuse_many_pixels(data: bytes) -> None:
    """ValueError for a picture that would take too much memory, by its head alone"""
    Image.init()
    try:
        with Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN]) as image:
            pixels = math.prod(image.size)
    except Exception:  # decode says what it is
        return
    if pixels > MOST_PIXELS:
        raise ValueError(f"{pixels:,} pixels; expected at most {MOST_PIXELS:,}: make it smaller")


def laid_over(picture: Tensor, seen: Tensor) -> Tensor:
    """picture uint8 (3, H, W), map (H, W) in [0, 1] -> uint8 (3, H, W): the map in colours over the grey picture"""
    colours = torch.tensor(WARM)  # (5, 3)
    place = seen * (len(colours) - 1)
    low = place.floor().long().clamp(max=len(colours) - 2)
    part = (place - low)[..., None]
    warm = (colours[low] * (1 - part) + colours[low + 1] * part).permute(2, 0, 1)  # (3, H, W)
    grey = (picture.float() / 255).mean(0, keepdim=True)
    weight = 0.65 * seen.sqrt()
    return ((grey * (1 - weight) + warm * weight) * 255).round().clamp(0, 255).to(torch.uint8)


def as_url(picture: Tensor) -> str:
    """uint8 (3, H, W) -> a PNG as a data URL, enlarged to SHOWN pixels"""
    file = io.BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


class Page(BaseHTTPRequestHandler):
    """GET / gives the page, POST /picture takes the bytes of a picture and gives what `answer` does, as JSON"""

    server_version, sys_version, timeout = "sft", "", SECONDS

    def do_GET(self) -> None:
        """The page, and no other"""
        self._try(lambda: (HTTPStatus.OK, "text/html; charset=utf-8", self._page()))

    def do_POST(self) -> None:
        """A picture"""
        self._try(lambda: (HTTPStatus.OK, "application/json", json.dumps(self._picture()).encode()))

    def _page(self) -> bytes:
        self._require_own_host()
        if self.path != "/":
            raise Refused(HTTPStatus.NOT_FOUND, "no such page")
        return self.server.page

    def _picture(self) -> dict:
        self._require_own_host()
        if self.path != "/picture":
            raise Refused(HTTPStatus.NOT_FOUND, "no such page")
        if not secrets.compare_digest(self.headers.get("X-Token", "").encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "this request does not come from the page: reload it")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 12):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the size of the picture is not told")
        if int(length) > MOST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MOST_BYTES // 2**20} MB: make it smaller")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, "the picture came in part only")
        try:
            with self.server.one_at_a_time:
                return answer(*self.server.trained, data)
        except (ValueError, MemoryError) as error:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{error or 'too large for memory'}") from None

    def _require_own_host(self) -> None:
        """A page of another address whose name leads here (DNS rebinding) asks for that name"""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            raise Refused(HTTPStatus.FORBIDDEN, "ask for 127.0.0.1")

    def _try(self, make) -> None:
        try:
            status, kind, body = make()
        except Refused as error:
            self.close_connection = True  # what is left of the request is not read
            status, kind, body = error.status, "application/json", json.dumps({"error": str(error)}).encode()
        except TimeoutError:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", self.server.policy),
            ("Referrer-Policy", "no-referrer"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing: what a request says is not to be printed"""


class Server(ThreadingHTTPServer):
    """The page for one trained model, on 127.0.0.1; ``trained``: what `load_trained` gives"""

    daemon_threads = True

    def __init__(self, trained: tuple, port: int = 0):
        super().__init__(("127.0.0.1", port), Page)
        self.trained, self.token, self.one_at_a_time = trained, secrets.token_hex(16), threading.Lock()
        text = PAGE.read_text(encoding="utf-8").replace("TOKEN", self.token)
        script = text.split("<script>")[1].split("</script>")[0].encode()
        digest = base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")
        self.page = text.encode()
        self.policy = (
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors http://127.0.0.1:* http://localhost:*"
        )

    def started(self) -> "Server":
        """The same, at work in a thread of this process"""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        """Where a browser finds it"""
        return f"http://127.0.0.1:{self.server_address[1]}/"


def opened(trained: tuple, port: int) -> Server:
    """The server at this port; ValueError where it is taken, or not for ordinary users"""
    try:
        return Server(trained, port)
    except OSError as error:
        raise ValueError(
            f"got --port {port}, which cannot be had ({error.strerror or error}); expected a free one: leave the "
            "option out, or choose another"
        ) from None


def main(words: list[str] | None = None) -> None:
    """Run the script with these words, by default those of the command line, until Ctrl-C"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, with best.pt")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    options = parser.parse_args(words)
    if not 0 <= options.port < 2**16:
        parser.error(f"argument --port: got {options.port}; expected 0 to {2**16 - 1}")
    with opened(load_trained(options.run / "best.pt"), options.port) as server:
        print(f"open {server.url} in a browser; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, MemoryError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
