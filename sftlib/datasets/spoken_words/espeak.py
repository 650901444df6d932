"""espeak, a speech synthesiser in C: asked for sounds in a process of its own, so that its crash is an error here.

eSpeak NG 1.52 from the package `espeakng-loader`, of which no Python runs. The process starts with the first sound
and ends with this one.
"""

import atexit
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from struct import unpack
from threading import Lock, Timer

import numpy as np

PACKAGE, DATA = "espeakng_loader", "espeak-ng-data"
RATE = 22_050  # Hz
LIBRARIES = {"win32": "espeak-ng.dll", "darwin": "libespeak-ng.dylib"}  # elsewhere libespeak-ng.so
PATTERNS = ("en_dict", "phon*", "intonations", "lang/gmw/en*", "voices/!v/*")  # what English is spoken from
SHA256 = "19428f8f7a4e2841e2da37d82ccceda1f26ca8755447092d63ddfb71f7817955"
REMEDY = "run `python lab.py setup`, or `pip install --force-reinstall --no-deps espeakng-loader==0.2.4`"
CHILD = Path(__file__).with_name("espeak_child.py")
PATIENCE_S = 30.0  # for one sound
START_S = 60.0


def library() -> Path:
    """The installed library; FileNotFoundError where it lacks"""
    found = find_spec(PACKAGE)
    path = Path(found.submodule_search_locations[0] if found else "", LIBRARIES.get(sys.platform, "libespeak-ng.so"))
    if found is None or not path.is_file():
        raise FileNotFoundError(f"{path.name} of the package espeakng-loader is not installed: {REMEDY}")
    return path


def copy_data(source: Path, target: Path) -> None:
    """What English is spoken from, into another folder, languages by small letters

    There espeak finds a voice by its name; in the package it reads 300 files for each sound, as it turns the name of
    a voice into small letters. ValueError unless the files are those that are known, by one SHA-256 over the length
    and the bytes of each name, then of each content.
    """
    names = sorted(path.relative_to(source).as_posix() for pattern in PATTERNS for path in source.glob(pattern))
    total = hashlib.sha256()
    for name in names:
        content = (source / name).read_bytes()
        for part in (name.encode(), content):
            total.update(len(part).to_bytes(8, "little") + part)
        place = target / (name.lower() if name.startswith("lang/") else name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    if (got := total.hexdigest()) != SHA256:
        raise ValueError(
            f"{source}: SHA-256 {got[:16]}…, expected {SHA256[:16]}…; damaged, or of another version: {REMEDY}"
        )


class Espeak:
    """The process and its pipes. One sound at a time; several threads may ask."""

    def __init__(self, program: tuple[str, ...] = ("-I", str(CHILD))):
        """program: what Python is given to run, followed by the folder of the data and the library"""
        self.program, self.process, self.errors, self.folder, self.once = program, None, None, None, False
        self.lock = Lock()

    def say(self, voice: str, text: str, *, words_per_minute: int, pitch: int, range: int, seed: int) -> np.ndarray:
        """-> samples int16 (n,) at 22,050 Hz, the same at each call; RuntimeError when the process ends instead

        voice: "gmw/en-us+f1", a file below lang/ and one below voices/!v/; pitch and range 0 to 99.
        """
        request = {"voice": voice, "words_per_minute": words_per_minute, "pitch": pitch, "range": range, "seed": seed,
                   "text": text}  # fmt: skip
        with self.lock:
            try:
                self._start()
                self._write(json.dumps(request).encode() + b"\n")
                samples = np.frombuffer(self._reply(f"it said {text!r:.80} in the voice {voice}", PATIENCE_S), "<i2")
            except BaseException:  # an interrupt too: what comes late would be taken for the next sound
                self._end(0)
                raise
            if self.once:
                self._end(1)
            return samples

    def close(self) -> None:
        """End the process; the next sound starts another"""
        with self.lock:
            self._end(1)

    def forget(self) -> None:
        """In a fork of this process: the child is its parent's"""
        self.lock = Lock()
        process, self.process = self.process, None
        if process is not None:
            process.stdin.close(), process.stdout.close(), self.errors.close()
            process.returncode = 0  # the parent waits for it, and removes the folder
            self.folder = None

    def _start(self) -> None:
        if self.process is not None:
            return
        installed = library()
        self.errors, self.folder = tempfile.TemporaryFile(), tempfile.mkdtemp()
        copy_data(installed.parent / DATA, Path(self.folder, DATA))
        self.process = subprocess.Popen(
            [sys.executable, *self.program, self.folder, str(installed)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            creationflags=subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0,
        )
        self.once = self._reply("it started", START_S) == b"once"

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[self.process.stdin.write(line) :]
        except OSError:  # it has ended, which the missing reply will say
            pass

    def _reply(self, when: str, patience_s: float) -> bytes:
        late = []
        timer = Timer(patience_s, lambda process: (late.append(True), process.kill()), [self.process])
        timer.start()
        try:
            status, n = unpack("<ii", self._read(8, when, late))
            content = self._read(n, when, late)
        finally:
            timer.cancel()
            timer.join()
        if status != 0:
            raise RuntimeError(f"{content.decode('utf-8', 'replace')}, when {when}")
        return content

    def _read(self, n: int, when: str, late: list) -> bytes:
        parts, missing = [], n
        while missing:
            part = self.process.stdout.read(missing)
            if not part:
                self._fail(when, late)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _fail(self, when: str, late: list) -> None:
        self.process.kill()
        status = self.process.wait()
        how = f"gave no answer in time ({PATIENCE_S:g} s)" if late else f"ended with status {status}"
        self.errors.seek(0)
        words = self.errors.read()[-2000:].decode("utf-8", "replace").strip() or "it wrote nothing"
        raise RuntimeError(f"espeak's process {how} when {when}: {words}. The next sound starts another process")

    def _end(self, patience_s: float) -> None:
        """Close the pipes, by which it ends by itself, or end it; wait for it, so that nothing stays behind"""
        process, self.process = self.process, None
        if process is not None:
            process.stdin.close()
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self.folder is not None:
            self.errors.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


ESPEAK = Espeak()
atexit.register(ESPEAK.close)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=ESPEAK.forget)
