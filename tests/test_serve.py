"""The page of tools/serve.py: what it answers, and all that it does not."""

import base64
import contextlib
import http.client
import io
import json
import socket
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import draw_noise, run, script

from sftlib.datasets.photo_details import photograph
from sftlib.strategies import load_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, out = draw_noise(tmp_path_factory.mktemp("pictures")), tmp_path_factory.mktemp("runs") / "run"
    words = ["--size", "64", "--batch", "11", "--epochs", "1", "--strategy", "probe"]
    script("train").main([str(root), "--out", str(out), *words])
    return root, out


@pytest.fixture(scope="module")
def serve():
    return script("serve")


@pytest.fixture(scope="module")
def server(trained, serve):
    with serve.Server(load_trained(trained[1] / "best.pt")) as server:
        yield server.started()
        server.shutdown()


def ask(server, method="POST", path="/picture", body=b"", **headers):
    """-> status, headers, body"""
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"X-Token": server.token} | named)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def png(size=(50, 40), mode="RGB", colour=None):
    file = io.BytesIO()
    Image.new(mode, size, colour or 100).save(file, "png")
    return file.getvalue()


def test_the_page_comes_with_a_policy_and_nothing_of_elsewhere(server):
    status, headers, body = ask(server, "GET", "/")
    text = body.decode()
    assert status == 200 and server.token in text and "TOKEN" not in text
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    assert (
        "http:" not in text
        and "https:" not in text
        and "unsafe" not in headers["Content-Security-Policy"].replace("style-src 'unsafe-inline'", "")
    )


def test_a_picture_gets_the_probabilities_that_predict_gives(server, trained):
    model, classes, size = load_trained(trained[1] / "best.pt")
    data = (trained[0] / "light" / "3.png").read_bytes()
    status, _, body = ask(server, body=data)
    found = json.loads(body)
    predict = script("predict")
    p = predict.predicted(model, [predict.read(trained[0] / "light" / "3.png", size)])[0]
    assert status == 200 and dict(found["classes"]) == pytest.approx(dict(zip(classes, p.tolist(), strict=True)))
    assert [q for _, q in found["classes"]] == sorted(p.tolist(), reverse=True)
    for name in ("picture", "looked"):
        image = Image.open(io.BytesIO(base64.b64decode(found[name].removeprefix("data:image/png;base64,"))))
        assert image.size == (320, 320)


@pytest.mark.parametrize("kind, mode", [("JPEG", "RGB"), ("PNG", "RGBA"), ("GIF", "P"), ("WEBP", "RGB"), ("PNG", "L")])
def test_common_formats_are_taken(kind, mode, server):
    file = io.BytesIO()
    Image.fromarray((photograph("flower") * 255).astype(np.uint8)).convert(mode).save(file, kind)
    assert ask(server, body=file.getvalue())[0] == 200


def bomb():
    """A PNG of 60,000 x 60,000 pixels in a few bytes: the head alone"""
    data = bytearray(png((8, 8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty file"),
        (b"no picture", "no picture that can be read"),
        (png()[:60], "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='50' height='50'/>", "no picture that can be read"),
        (bomb(), "pixels"),
    ],
    ids=["empty", "text", "half", "eps", "svg", "bomb"],
)
def test_what_is_no_picture_is_refused_in_words(body, words, server):
    status, _, answer = ask(server, body=body)
    assert status == 422 and words in json.loads(answer)["error"]
    assert ask(server, body=png())[0] == 200


def test_a_picture_of_many_pixels_is_refused_before_it_is_decoded(server, serve, monkeypatch):
    monkeypatch.setattr(serve, "MOST_PIXELS", 50 * 40 - 1)
    monkeypatch.setattr(serve, "decode", None)
    with pytest.raises(ValueError, match="2,000 pixels; expected at most 1,999"):
        serve.answer(*server.trained, png())


@pytest.mark.parametrize(
    "changes, status",
    [
        ({"X_Token": "wrong"}, 403),
        ({"X_Token": "ä"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Content_Length": "99999999999"}, 413),
        ({"Content_Length": str(20 * 2**20 + 1)}, 413),
        ({"Content_Length": "-5"}, 411),
        ({"Content_Length": "x"}, 411),
        ({"path": "/../tools/serve.py"}, 404),
        ({"path": "/picture/../../etc/passwd"}, 404),
        ({"method": "GET", "path": "/best.pt"}, 404),
        ({"method": "GET", "path": "/", "Host": "evil.example"}, 403),
        ({"method": "PUT"}, 501),
        ({"method": "DELETE", "path": "/"}, 501),
    ],
)
def test_other_requests_are_not_answered(changes, status, server):
    assert ask(server, **({"body": png()} | changes))[0] == status


def test_it_listens_on_this_computer_alone_and_a_slow_upload_holds_up_nobody(server):
    assert server.server_address[0] == "127.0.0.1"
    with socket.create_connection(server.server_address) as slow:
        slow.sendall(f"POST /picture HTTP/1.1\r\nHost: 127.0.0.1:{server.server_address[1]}\r\nX-Token: {server.token}"
                     "\r\nContent-Length: 1000\r\n\r\n12".encode())  # fmt: skip
        assert ask(server, body=png())[0] == 200


def test_the_map_is_laid_over_in_colours(serve):
    picture, seen = torch.full((3, 5, 7), 100, dtype=torch.uint8), torch.zeros(5, 7)
    seen[2, 3] = 1.0
    over = serve.laid_over(picture, seen)
    assert torch.equal(over[:, 0, 0], picture[:, 0, 0]) and over[0, 2, 3] > 150


def test_a_network_without_maps_is_served_without_them(serve, server, monkeypatch):
    def none(*_):
        raise ValueError("no maps")

    monkeypatch.setattr(serve, "grad_cam", none)
    found = serve.answer(*server.trained, png())
    assert "looked" not in found and found["classes"]


def test_a_port_that_is_taken_is_told_with_exit_code_2(trained, server):
    done = run("serve", trained[1], "--port", server.server_address[1])
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"got --port {server.server_address[1]}, which cannot be had" in done.stderr, done.stderr
    assert "expected a free one: leave the option out" in done.stderr, done.stderr


def test_a_run_that_is_none_is_told_with_exit_code_2(tmp_path):
    done = run("serve", tmp_path)
    assert done.returncode == 2 and "best.pt does not exist" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
