"""Sounds made on the spot: espeak says a word in some voice, in a room, with noise, each a function of its key."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from scipy.signal import fftconvolve
from torch import Tensor

from sftlib.datasets.spoken_words.espeak import ESPEAK, RATE

# Of espeak's variants those that sound like people and differ; two of them (Reed, caleb) are not the same twice.
VOICES = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Michael", "Nguyen",
    "adam", "anika", "antonio", "belinda", "boris", "david", "ed", "f1", "f2", "f3", "f4", "grandma", "ian", "iven",
    "john", "linda", "m1", "m2", "m5", "m7", "m8", "marcelo", "max", "michel", "norbert", "pablo", "paul", "pedro",
    "quincy", "robert", "sandro", "shelby", "steph", "victor", "zac",
)  # fmt: skip
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
KEPT = 4096  # sounds in memory, some 30 kB each
FAINT = 10 ** (-45 / 20)  # of the peak: what is fainter before and behind a word is cut off
AROUND = int(0.01 * RATE)  # samples kept before and behind it
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How sounds are made. Ranges (lowest, highest) are drawn from evenly, for each sound anew; None: without.

    counts: sounds in train, val and test. voices: the speakers; each has, by the seed, one of the accents, a pitch
    and a speed of its own. noise_db: signal over noise, by their energy. room_s: the time in which an echo falls by
    60 dB. level_db: root mean square below full scale.
    """

    counts: dict[str, int] = field(default_factory=lambda: {"train": 1_000, "val": 200, "test": 400})
    voices: Sequence[str] = VOICES
    accents: Sequence[str] = ACCENTS
    words_per_minute: Range = (130, 210)
    pitch: Range = (35, 65)  # 50 is the voice's own, 0 and 99 an octave from it
    noise_db: Range | None = (10, 40)
    room_s: Range | None = (0.1, 0.5)
    level_db: Range = (-40, -20)


@dataclass(frozen=True)
class Take:
    """One sound, not made yet: what is said, by whom, and the key of its random numbers"""

    text: str
    voice: str  # "gmw/en-us+f1"
    pitch: float  # of the speaker, 0 to 99
    words_per_minute: float
    noise_db: Range | None
    room_s: Range | None
    level_db: Range
    key: tuple[int, ...]

    def sound(self) -> tuple[Tensor, int]:
        """-> samples float32 (n,), a copy; rate in Hz"""
        return torch.from_numpy(_made(self) / np.float32(32_768)), RATE

    def content(self) -> bytes:
        """All that it is a function of"""
        return repr(self).encode()


@dataclass(frozen=True)
class Speaker:
    """A voice with its accent, pitch and speed"""

    name: str
    accent: str
    pitch: float
    words_per_minute: float

    def take(self, text: str, key: tuple[int, ...], how: Synthesis) -> Take:
        """What this speaker says, as the key has it"""
        voice = f"gmw/{self.accent}+{self.name}"
        return Take(text, voice, self.pitch, self.words_per_minute, how.noise_db, how.room_s, how.level_db, key)


def speakers(how: Synthesis, seed: int) -> dict[str, Speaker]:
    """name -> speaker, by the seed and the name alone"""
    people = {}
    for name in how.voices:
        rng = np.random.default_rng([seed, 0, *name.encode()])
        accent = how.accents[rng.integers(len(how.accents))]
        people[name] = Speaker(name, accent, rng.uniform(*how.pitch), rng.uniform(*how.words_per_minute))
    return people


@lru_cache(maxsize=KEPT)
def _made(take: Take) -> np.ndarray:
    """-> samples int16 (n,)"""
    rng = np.random.default_rng(take.key)
    said = ESPEAK.say(
        take.voice, take.text,
        words_per_minute=int(np.clip(take.words_per_minute * rng.uniform(0.92, 1.08), 80, 450)),
        pitch=int(np.clip(take.pitch + rng.uniform(-4, 4), 0, 99)),
        range=int(rng.integers(30, 71)),
        seed=int(rng.integers(1, 2**31 - 1)),
    )  # fmt: skip
    wave = _trimmed(said, take)
    wave = np.pad(wave, rng.integers(int(0.01 * RATE), int(0.12 * RATE), 2))  # 10 to 120 ms of silence around it
    if take.room_s is not None:
        wave = in_room(wave, rng.uniform(*take.room_s), rng)
    wave = wave * (10 ** (rng.uniform(*take.level_db) / 20) / np.sqrt(np.mean(wave**2)))
    if take.noise_db is not None:
        wave = with_noise(wave, rng.uniform(*take.noise_db), rng)
    return (wave.clip(-1, 1) * 32_767).round().astype(np.int16)


def _trimmed(said: np.ndarray, take: Take) -> np.ndarray:
    """samples int16 (n,) -> float64, without what is silent before and behind the word"""
    loud = np.abs(said.astype(np.float64))
    heard = np.flatnonzero(loud > FAINT * loud.max(initial=0))
    if not len(heard):
        raise ValueError(f"espeak says nothing for {take.text!r}; expected words or numbers in English")
    return said[max(0, heard[0] - AROUND) : heard[-1] + AROUND] / 32_768


def in_room(wave: np.ndarray, fall_s: float, rng: np.random.Generator) -> np.ndarray:
    """wave (n,) -> (n + m,), with an echo that falls by 60 dB in fall_s seconds, followed for half as long

    The echo is noise under a falling exponential, which is what the reflections of a room add up to (Polack 1988);
    its energy is 0 to 12 dB below that of the sound which comes straight.
    """
    t = np.arange(int(0.5 * fall_s * RATE)) / RATE
    echo = rng.standard_normal(len(t)) * 10 ** (-3 * t / max(fall_s, 1e-9))
    if not len(t):
        return wave
    echo *= 10 ** (-rng.uniform(0, 12) / 20) / np.sqrt(np.sum(echo**2))
    return fftconvolve(wave, np.concatenate([[1.0], echo]))


def with_noise(wave: np.ndarray, ratio_db: float, rng: np.random.Generator) -> np.ndarray:
    """wave (n,) -> the same with noise whose power falls as 1 / f^a, a from 0 (white) to 2 (brown)"""
    n = scipy.fft.next_fast_len(len(wave), real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(n))
    hertz = np.maximum(np.arange(len(spectrum)) * RATE / n, 50)  # below 50 Hz it does not grow
    noise = scipy.fft.irfft(spectrum * hertz ** (-rng.uniform(0, 2) / 2), n)[: len(wave)]
    return wave + noise * np.sqrt(np.sum(wave**2) / np.sum(noise**2) / 10 ** (ratio_db / 10))
