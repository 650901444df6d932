"""espeak's library in a process of its own: a line of JSON comes in for each sound, its samples go out.

    python -I espeak_child.py [once] FOLDER LIBRARY

FOLDER holds espeak-ng-data, and is removed at the end. A request has voice, words_per_minute, pitch, range, seed and
text; a reply is two little-endian int32, status and number of bytes, then samples int16 at 22,050 Hz (status 0) or an
error (1). The first reply comes without a request and tells whether more than one sound may be asked for. Imports the
standard library alone, so that it starts fast and a crash takes nothing with it.
"""

import _ctypes
import ctypes
import json
import os
import shutil
import signal
import struct
import sys

RATE = 22_050  # Hz
SYNCHRONOUS, NO_EXIT, UTF8 = 2, 0x8000, 1  # output, option and flag of speak_lib.h
RATE_OF_WORDS, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
TRIAL = {"voice": "gmw/en-us+f1", "words_per_minute": 175, "pitch": 50, "range": 50, "seed": 1, "text": "one"}
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Library:
    """The library, loaded anew for each sound: pitch, gain and noise of one would go on into the next"""

    def __init__(self, path: str):
        self.path, self.loaded, self.parts = path, None, []
        self.callback = Callback(self._keep)

    def _keep(self, samples, n: int, _events) -> int:
        if samples and n > 0:
            self.parts.append(ctypes.string_at(samples, 2 * n))
        return 0

    def say(self, request: dict) -> bytes:
        """-> samples int16; RuntimeError with what the library refused"""
        self._load()
        espeak = self.loaded
        espeak.espeak_ng_SetRandSeed(ctypes.c_long(request["seed"]))
        _require(espeak.espeak_SetVoiceByName(request["voice"].encode()), f"the voice {request['voice']}")
        settings = {RATE_OF_WORDS: request["words_per_minute"], PITCH: request["pitch"], RANGE: request["range"]}
        for name, value in settings.items():
            _require(espeak.espeak_SetParameter(name, value, 0), f"parameter {name} = {value}")
        self.parts.clear()
        text = request["text"].encode() + b"\0"
        _require(espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, UTF8, None, None), "the text")
        return b"".join(self.parts)

    def _load(self) -> None:
        if self.loaded is not None:
            self.loaded.espeak_Terminate()
            unload = _ctypes.FreeLibrary if sys.platform == "win32" else _ctypes.dlclose
            unload(self.loaded._handle)
        self.loaded = ctypes.CDLL(self.path)
        # A path relative to the working folder: the library keeps 160 bytes of it and knows no Unicode on Windows.
        rate = self.loaded.espeak_Initialize(SYNCHRONOUS, 500, b".", NO_EXIT)
        if rate != RATE:
            raise RuntimeError(f"espeak started with {rate} Hz; expected {RATE}: are its files whole?")
        self.loaded.espeak_SetSynthCallback(self.callback)


def _require(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"espeak refused {what} (status {status})")


def repeats(library: Library) -> bool:
    """Does a sound come out the same after another one? Where a system keeps what was unloaded, it does not."""
    first = library.say(TRIAL)
    library.say(TRIAL | {"text": "another sound", "voice": "gmw/en-us+m3"})
    return library.say(TRIAL) == first


def answer(library: Library, once: bool, replies) -> None:
    """Answer each line of the standard input, until it ends"""

    def reply(status: int, content: bytes) -> None:
        replies.write(struct.pack("<ii", status, len(content)) + content)
        replies.flush()

    try:
        once = once or not repeats(library)
    except (OSError, RuntimeError) as error:
        return reply(1, str(error).encode())
    reply(0, b"once" if once else b"many")
    for line in sys.stdin.buffer:
        try:
            reply(0, library.say(json.loads(line)))
        except RuntimeError as error:
            reply(1, str(error).encode())
        if once:
            return None
    return None


def main() -> None:
    """Answer, and leave nothing behind: whoever asked may have ended without a chance to tidy up"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that asks
    # What the library prints must not get among the samples.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    *options, folder, path = sys.argv[1:]
    os.chdir(folder)
    try:
        answer(Library(path), "once" in options, replies)
    finally:
        os.chdir(os.path.dirname(folder))
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
