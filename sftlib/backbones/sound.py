"""Sound -> frames: the front end that the voice network was trained with, in torch.

16 kHz, raised to -30 dBFS, windows of 25 ms every 10 ms, 40 mel bands of power (Slaney's scale and areas). No
logarithm: the network has seen none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

RATE = 16_000  # samples per second
WINDOW, STEP, BANDS = 400, 160, 40  # samples, samples, mel bands
LOUDNESS = 10 ** (-30 / 20)  # -30 dB below full scale, as a root mean square
PASSED = 0.913  # share of the band below the lower Nyquist frequency that resampling leaves as it is

Sound = tuple[Tensor | np.ndarray, int]


@dataclass(frozen=True)
class Mels:
    """sounds, a list of N (samples (n,) in [-1, 1], rate in Hz) -> (frames float32 (N, T, 40), lengths int64 (N,))

    A sound of n samples at 16 kHz has 1 + n // 160 frames; behind them are zeros up to the longest.
    """

    size: None = None

    def __call__(self, sounds: Sequence[Sound]) -> tuple[Tensor, Tensor]:
        if not isinstance(sounds, list | tuple) or not sounds:
            raise ValueError(f"got {type(sounds).__name__}; expected a list of (samples (n,), rate), one or more")
        waves = [loudness(resample(*_checked(sound, i))) for i, sound in enumerate(sounds)]
        lengths = torch.tensor([1 + len(wave) // STEP for wave in waves])
        frames = mel_power(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True))
        return frames * (torch.arange(frames.shape[1]) < lengths[:, None])[..., None], lengths

    def at(self, size: int | None) -> "Mels":
        """Itself: sounds keep their length. ValueError for another size than None."""
        if size is not None:
            raise ValueError(f"got size={size!r}; sounds keep their length: expected None. Cut the samples instead")
        return self


def mel_power(waves: Tensor) -> Tensor:
    """waves at 16 kHz (N, n) -> power in mel bands (N, 1 + n // 160, 40); frames are centred, zeros beyond the ends"""
    window = torch.hann_window(WINDOW, dtype=waves.dtype)
    spectrum = torch.stft(
        waves, WINDOW, STEP, window=window, center=True, pad_mode="constant", return_complex=True
    )  # (N, 201, T)
    return spectrum.abs().square().transpose(1, 2) @ mel_filters().to(waves.dtype)


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """-> (201, 40): triangles between equal steps of Slaney's mel from 0 to 8,000 Hz, each of area 1 / Hz

    Slaney 1998, Auditory Toolbox: linear below 1,000 Hz (200 / 3 Hz a mel), above it 27 mels for a factor of 6.4.
    """
    top = 15 + 27 * math.log(8) / math.log(6.4)  # mels of 8,000 Hz
    mels = torch.linspace(0, top, BANDS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27))
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return torch.minimum(rising, falling).clamp_min(0) * 2 / (high - low)


def loudness(wave: Tensor) -> Tensor:
    """wave (n,) -> the same, raised to -30 dBFS when it is quieter; silence stays silence"""
    level = wave.square().mean().sqrt()
    return wave * (LOUDNESS / level) if 0 < level < LOUDNESS else wave


def resample(samples: Tensor, rate: int) -> Tensor:
    """samples (n,) at any whole rate in Hz -> float32 (⌈16,000 n / rate⌉,) at 16 kHz, by way of the spectrum

    Nothing is left above the lower of the two Nyquist frequencies, from 0.913 of which on it fades. Zeros stand
    before and behind the sound, so that its end does not reach round to its beginning.
    """
    if rate == RATE:
        return samples
    shared = math.gcd(rate, RATE)
    old, new = rate // shared, RATE // shared
    before = old * math.ceil(rate / 20 / old)  # 50 ms and more, a whole number of new samples
    n = old * math.ceil((len(samples) + 2 * before) / old)
    padded = torch.nn.functional.pad(samples.double(), (before, n - len(samples) - before))
    spectrum = torch.fft.rfft(padded)
    hertz = torch.arange(len(spectrum), dtype=torch.float64) * rate / n
    share = hertz / (min(rate, RATE) / 2)
    fade = ((share - PASSED) / (1 - PASSED)).clamp(0, 1)
    spectrum = spectrum * (1 + torch.cos(math.pi * fade)) / 2
    m = n // old * new
    wave = torch.fft.irfft(spectrum[: m // 2 + 1], m) * (new / old)
    start = before // old * new
    return wave[start : start + math.ceil(len(samples) * new / old)].float()


def _checked(sound: object, i: int) -> tuple[Tensor, int]:
    """-> samples float32 (n,), rate; ValueError that names the sound by its place"""
    if not isinstance(sound, tuple | list) or len(sound) != 2:
        raise ValueError(f"got {type(sound).__name__} as sound {i}; expected (samples (n,), rate in Hz)")
    samples, rate = torch.as_tensor(sound[0]).detach().cpu(), sound[1]
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 1_000 <= rate <= 1_000_000:
        raise ValueError(f"got the rate {rate!r} for sound {i}; expected samples per second, 1,000 to 1,000,000")
    if samples.ndim != 1 or not samples.is_floating_point():
        raise ValueError(
            f"got {samples.dtype} of shape {tuple(samples.shape)} as sound {i}; expected floating point (n,) in "
            "[-1, 1]: take the mean of two channels, divide 16-bit numbers by 32,768"
        )
    least = math.ceil(WINDOW * rate / RATE)
    if len(samples) < least or not samples.isfinite().all() or samples.abs().max() > 2:
        raise ValueError(
            f"got {len(samples)} samples up to {samples.abs().max() if len(samples) else 0:.3g} as sound {i}; expected "
            f"{least} or more (25 ms), finite, in [-1, 1]: leave broken recordings out, divide 16-bit numbers by 32,768"
        )
    return samples.float(), int(rate)
