"""Hours and weather, and what the air, the lens and the sensor do to a picture."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sftlib.datasets.street_scenes.view import Canvas, View

KINDS = ("clear", "cloudy", "rain", "fog", "snow", "dusk", "night")
CHANCES = (0.30, 0.24, 0.10, 0.07, 0.05, 0.10, 0.14)


@dataclass(frozen=True)
class Weather:
    """Colours (3,); haze: share that a hundred metres of air take; sun: strength of shadows, and where they fall"""

    kind: str
    light: tuple
    zenith: tuple
    low: tuple
    cloud: tuple
    cover: float
    haze: float
    sun: float
    slant: tuple[float, float]
    night: bool
    wet: float
    snow: float


def weather(rng: np.random.Generator) -> Weather:
    """Hour and weather, drawn by lot"""
    kind = str(rng.choice(KINDS, p=CHANCES))
    warm, bright = rng.uniform(-0.06, 0.10), rng.uniform(0.8, 1.2)
    angle, slant = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 2.2)
    light = np.array([1 + warm, 1.0, 1 - warm]) * bright
    settings = {
        "clear": ((0.22, 0.42, 0.78), (0.70, 0.82, 0.93), (0.95, 0.95, 0.96), rng.uniform(0, 0.6), 0.10, 0.75),
        "cloudy": ((0.62, 0.66, 0.72), (0.80, 0.82, 0.84), (0.80, 0.81, 0.83), 0.95, 0.18, 0.1),
        "rain": ((0.42, 0.45, 0.50), (0.58, 0.60, 0.62), (0.50, 0.52, 0.55), 0.95, 0.45, 0.0),
        "fog": ((0.70, 0.72, 0.74), (0.76, 0.77, 0.78), (0.75, 0.76, 0.77), 1.0, rng.uniform(0.85, 0.97), 0.0),
        "snow": ((0.68, 0.70, 0.74), (0.80, 0.81, 0.84), (0.75, 0.76, 0.80), 1.0, 0.5, 0.0),
        "dusk": ((0.20, 0.24, 0.42), (0.95, 0.60, 0.40), (0.70, 0.45, 0.45), rng.uniform(0.2, 0.8), 0.25, 0.35),
        "night": ((0.012, 0.016, 0.035), (0.06, 0.06, 0.08), (0.05, 0.05, 0.06), rng.uniform(0, 0.8), 0.12, 0.0),
    }  # fmt: skip
    zenith, low, cloud, cover, haze, sun = settings[kind]
    dim = {"night": (0.24, 0.25, 0.33), "dusk": (0.62, 0.50, 0.48), "rain": (0.62, 0.64, 0.67)}.get(kind, (1, 1, 1))
    return Weather(
        kind, tuple(light * dim), zenith, low, cloud, cover, haze, sun,
        (slant * np.sin(angle), slant * np.cos(angle)), night=kind == "night",
        wet=rng.uniform(0.15, 0.4) if kind == "rain" or rng.random() < 0.05 else 0.0,
        snow=rng.uniform(0.5, 1) if kind == "snow" else 0.0,
    )  # fmt: skip


def developed(canvas: Canvas, view: View, weather: Weather, pools: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """canvas, light of lamps on the ground (H, W) -> picture uint8 (3, H, W)"""
    sky = ~np.isfinite(canvas.away)
    light = np.float32(weather.light) + pools[..., None] * np.float32([1.0, 0.8, 0.5])
    colour = np.where(sky[..., None], canvas.colour, canvas.colour * light)
    glow = canvas.glow * (1.0 if weather.night else 0.7)
    colour = colour + glow
    if weather.wet:
        colour = _wet(colour, canvas, view, weather.wet)
    air = 1 - np.exp(math.log1p(-weather.haze) * np.where(sky, 0, canvas.away) / 100)
    colour = colour + air[..., None] * (np.float32(weather.low) * (0.9 if weather.night else 1) - colour)
    colour = colour + _bloom(glow, view) * (1.0 if weather.night else 0.25)
    if weather.kind in ("rain", "snow"):
        colour = _falling(colour, view, weather, rng)
    return _sensed(colour, view, weather, rng)


def _bloom(glow: np.ndarray, view: View) -> np.ndarray:
    """Light that lenses and damp air spread around lamps"""
    if not glow.any():
        return np.zeros_like(glow)
    small = Image.fromarray((np.clip(glow, 0, 1) * 255).astype(np.uint8)).reduce(4)
    wide = small.filter(ImageFilter.GaussianBlur(view.width / 130))
    return np.asarray(wide.resize((view.width, view.height), Image.Resampling.BILINEAR), np.float32) / 255 * 0.9


def _wet(colour, canvas: Canvas, view: View, share: float) -> np.ndarray:
    """Ground that mirrors what stands above it, smeared downwards"""
    row = int(np.clip(view.horizon, 0, view.height - 1))
    mirrored = np.clip(2 * row - np.arange(view.height), 0, view.height - 1)
    image = colour[mirrored]
    smeared = (image + np.roll(image, 2, 0) + np.roll(image, 5, 0) + np.roll(image, 9, 0)) / 4
    ground = np.isfinite(canvas.away) & ~np.isfinite(canvas.depth)
    a = (share * ground)[..., None]
    return colour * (1 - 0.4 * a) + a * smeared


def _falling(colour, view: View, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Rain as slanted streaks, snow as flakes"""
    drops = (rng.random((view.height, view.width)) < (0.004 if weather.wet else 0.008)).astype(np.float32)
    if weather.snow:
        drops = np.maximum.reduce([drops, np.roll(drops, 1, 0), np.roll(drops, 1, 1), np.roll(drops, (1, 1), (0, 1))])
        return colour + (0.75 * drops)[..., None] * (0.95 - colour)
    streaks = sum(np.roll(drops, (i, i // 4), (0, 1)) for i in range(9)) * 0.16
    return colour + streaks[..., None] * (0.75 - colour)


def _sensed(colour, view: View, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, falling light to the corners, blur, response, noise"""
    exposure = rng.uniform(0.85, 1.2) * np.float32(1 + rng.normal(0, 0.035, 3))
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (view.height, view.width))
    corners = 1 - rng.uniform(0, 0.3) * (y[:, None] ** 2 + x[None] ** 2) / 2
    colour = np.clip(colour * exposure * corners[..., None], 0, 1)
    image = Image.fromarray((colour ** rng.uniform(0.75, 1.05) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.75) * view.width / 320))
    colour = np.asarray(image, np.float32)
    contrast = rng.uniform(0.85, 1.2)
    colour = (colour - 110) * contrast + 110
    noise = rng.standard_normal((view.height, view.width, 3), dtype=np.float32)
    read = rng.uniform(1.0, 4.0) * (2.2 if weather.night else 1)
    colour += noise * (read + 0.25 * np.sqrt(np.maximum(colour, 0)))
    return np.ascontiguousarray(np.clip(np.rint(colour), 0, 255).astype(np.uint8).transpose(2, 0, 1))
