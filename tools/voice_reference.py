"""What the packages librosa and resemblyzer compute, for the tests of the voice network: tests/voice_reference.json

  python tools/voice_reference.py

Both are installed apart, into a temporary folder: the course reads resemblyzer's weights and runs none of its code.
"""

import json
import math
import subprocess
import sys
import sysconfig
import tempfile
import types
import venv
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parents[1] / "tests" / "voice_reference.json"
LIBROSA = "librosa==0.11.0"
# name: rate in Hz, seconds, pitch in Hz, factor of the formants, peak (the second is louder than -30 dBFS)
SOUNDS = {
    "low": (16_000, 1.73, 103.0, 1.0, 0.02),
    "loud": (16_000, 2.9, 211.0, 1.17, 0.7),
    "telephone": (8_000, 1.31, 131.0, 0.93, 0.05),
    "studio": (44_100, 1.9, 173.0, 1.07, 0.01),
}
FRAMES = (0, 1, 2, 41, 73, 97, -3, -2, -1)  # of each sound, those that are stored
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))  # formants, Hz


def voice(rate: int, seconds: float, pitch: float, scale: float, peak: float, start: int = 0) -> np.ndarray:
    """-> samples float32 (n,): vowels one after the other, harmonics of a wavering pitch under the vowels' formants

    Formants of men by Peterson and Barney 1952, table II; scale > 1 is a shorter throat. A formula, without chance.
    """
    t = np.arange(round(seconds * rate)) / rate
    frequency = pitch * (1 + 0.04 * np.sin(2 * math.pi * 2.3 * t + start) + 0.02 * np.sin(2 * math.pi * 5.7 * t))
    phase = 2 * math.pi * np.cumsum(frequency) / rate
    vowel = (np.floor(t / 0.23).astype(int) + start) % len(VOWELS)
    formants = np.array(VOWELS, float)[vowel] * scale  # (n, 3)
    wave = np.zeros_like(t)
    for k in range(1, int(3_700 / pitch)):
        height = np.exp(-(((k * frequency)[:, None] - formants) ** 2) / (2 * 110.0**2)) * (1.0, 0.5, 0.25)
        wave += (height.sum(1) + 0.02) * np.sin(k * phase) / math.sqrt(k)
    wave *= 0.3 + 0.7 * np.sin(math.pi * t / 0.23) ** 2  # syllables
    return (peak * wave / np.abs(wave).max()).astype(np.float32)


def main() -> None:
    """Install both apart, ask them, write what they say."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, LIBROSA], check=True)
        subprocess.run([*pip, "--no-deps", "resemblyzer==0.1.4"], check=True)
        # torch comes from the course's own packages, which stand behind those of the folder.
        done = subprocess.run([python, __file__, sysconfig.get_path("purelib")], check=True, stdout=subprocess.PIPE)
    TARGET.write_bytes(done.stdout)


def ask() -> dict:
    """In the folder apart: name of a sound -> mels and embeddings as the packages compute them"""
    stand_in = types.ModuleType("webrtcvad")  # finds where no one speaks: a compiled package that is not needed here
    sys.modules["webrtcvad"] = stand_in
    moved = types.ModuleType("scipy.ndimage.morphology")  # newer versions of scipy have it elsewhere
    moved.binary_dilation = None
    sys.modules["scipy.ndimage.morphology"] = moved
    import librosa
    from resemblyzer import VoiceEncoder, audio

    encoder, found = VoiceEncoder("cpu", verbose=False), {}
    for name, arguments in SOUNDS.items():
        rate, wave = arguments[0], voice(*arguments)
        if rate != 16_000:
            wave = librosa.resample(wave, orig_sr=rate, target_sr=16_000)
        wave = audio.normalize_volume(wave, -30, increase_only=True)
        mels = audio.wav_to_mel_spectrogram(wave)
        found[name] = {
            "frames": len(mels),
            "mels": numbers(mels[list(FRAMES)]),
            "whole": numbers(network(encoder, mels)),  # all frames as one
            "utterance": numbers(encoder.embed_utterance(wave)),  # the package's way: the mean over windows of 160
        }
    found["versions"] = {"librosa": librosa.__version__, "resemblyzer": "0.1.4"}
    return found


def network(encoder, mels: np.ndarray) -> np.ndarray:
    """mels (T, 40) -> embedding (256,)"""
    import torch

    with torch.no_grad():
        return encoder(torch.from_numpy(mels)[None])[0].numpy()


def numbers(array: np.ndarray) -> list:
    """-> the same as lists, six digits each"""
    return [float(f"{v:.6g}") for v in array] if array.ndim == 1 else [numbers(row) for row in array]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.path.append(sys.argv[1])
        rows = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in ask().items()]
        print("{\n" + ",\n".join(rows) + "\n}")
    else:
        main()
