"""Wheels of next to nothing, for tests of installers; standard library only."""

import base64
import hashlib
import zipfile


def make(folder, name, version, files, needs=""):
    """Write a wheel -> its file name"""
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = files | {
        f"{info}/METADATA": head + needs,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {n: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=") for n, t in files.items()}
    record = "".join(f"{n},sha256={digests[n].decode()},{len(t.encode())}\n" for n, t in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for inside, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            file.writestr(inside, text)
    return f"{name}-{version}-py3-none-any.whl"
