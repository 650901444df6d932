"""WAV files: whole numbers of 8 to 32 bits and floating point of 32 or 64, any rate and number of channels."""

import struct
from pathlib import Path

import numpy as np

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
KINDS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "ADPCM", 85: "MP3"}  # compressed: named, not read
UNKNOWN = 0xFFFFFFFF  # the size that a program writes which cannot go back: to the end of the file
SHORTEST_S = 0.025  # one window of the front end
SILENT = 2**-14  # two steps of 16 bits
LOUDEST = 2.0  # of floating point; above it, the numbers were not divided
RATES = 1_000, 1_000_000  # Hz


def read(path: Path) -> tuple[np.ndarray, int]:
    """path -> samples float32 (n,), rate in Hz, as `decode` has them"""
    return decode(path.read_bytes())


def decode(content: bytes) -> tuple[np.ndarray, int]:
    """bytes of a file -> samples float32 (n,), mean of the channels, in [-1, 1] (floating point as stored); rate in Hz

    ValueError that says what is wrong: no WAV, cut, empty, compressed, silent, shorter than 25 ms, not finite.
    """
    if not content:
        raise ValueError("empty")
    form, data = _chunks(content)
    kind, channels, rate, bits = form
    if not RATES[0] <= rate <= RATES[1] or channels == 0:
        raise ValueError(f"{channels} channels at {rate} Hz; expected 1 or more, at {RATES[0]:,} to {RATES[1]:,} Hz")
    width = channels * _bytes(kind, bits)
    if len(data) % width:
        raise ValueError(f"{len(data)} bytes of samples are no multiple of {width}: cut, or a damaged head")
    samples = _numbers(data, kind, bits).reshape(-1, channels).mean(1)
    return _usable(samples, rate), rate


def _usable(samples: np.ndarray, rate: int) -> np.ndarray:
    """samples float64 (n,) -> float32, if a word can be in them"""
    if len(samples) < SHORTEST_S * rate:
        raise ValueError(f"{len(samples)} samples at {rate} Hz; expected 25 ms or more")
    if not np.isfinite(samples).all():
        raise ValueError("samples that are NaN or infinite")
    if (peak := np.abs(samples).max()) > LOUDEST:
        raise ValueError(f"samples up to {peak:.3g}; expected [-1, 1]")
    if np.ptp(samples) < 2 * SILENT:
        raise ValueError("silent")
    return samples.astype(np.float32)


def _chunks(content: bytes) -> tuple[tuple[int, int, int, int], bytes]:
    """-> (kind, channels, rate, bits per sample), bytes of the samples"""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(f"no WAV file, it begins with {content[:12]!r}")
    form, place = None, 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        body = content[place + 8 : place + 8 + size]
        to_the_end = name == b"data" and size == UNKNOWN
        if len(body) < size and not to_the_end:
            raise ValueError(f"cut: {len(body):,} of {size:,} bytes of its part {name!r}")
        if name == b"fmt ":
            form = _form(body)
        if name == b"data":
            if form is None:
                raise ValueError("samples before their format")
            return form, body
        place += 8 + size + size % 2
    raise ValueError("cut: no samples")


def _form(body: bytes) -> tuple[int, int, int, int]:
    """The part "fmt " -> kind, channels, rate, bits"""
    if len(body) < 16:
        raise ValueError(f"a format of {len(body)} bytes; expected 16 or more")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    return kind, channels, rate, bits


def _bytes(kind: int, bits: int) -> int:
    """Of one sample; ValueError for a kind that is not read"""
    if (kind, bits) in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        return bits // 8
    what = {PCM: "whole numbers", FLOAT: "floating point"} | KINDS
    raise ValueError(f"{what.get(kind, f'format {kind}')} of {bits} bits; expected uncompressed: convert it to 16 bits")


def _numbers(data: bytes, kind: int, bits: int) -> np.ndarray:
    """-> float64 (n,)"""
    if kind == FLOAT:
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)
    if bits == 8:  # alone without a sign
        return (np.frombuffer(data, np.uint8) - 128.0) / 128
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(data, f"<i{bits // 8}") / 2.0 ** (bits - 1)
