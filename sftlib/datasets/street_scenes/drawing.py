"""One picture from two numbers: the street, what stands in it, the weather, the sensor."""

from dataclasses import dataclass

import numpy as np

from sftlib.datasets.street_scenes import ground, layout, light, nature
from sftlib.datasets.street_scenes.view import BICYCLIST, CAR, PEDESTRIAN, SKY, Canvas, Layer, View, visible

SMALLEST, LEAST_SHARE = 20, 0.15  # pixels in sight, and share of its own: with less an object is left out
KINDS = {"pedestrian": PEDESTRIAN, "car": CAR, "bicyclist": BICYCLIST}


@dataclass(frozen=True)
class Drawing:
    """picture uint8 (3, H, W), classes uint8 (H, W), objects int16 (H, W): 0 none, i + 1 the object i of kinds (n,)"""

    picture: np.ndarray
    classes: np.ndarray
    objects: np.ndarray
    kinds: np.ndarray
    weather: str


def drawn(seed: int, row: int, width: int, height: int) -> Drawing:
    """The picture of a row: a function of the four numbers alone"""
    rng = np.random.default_rng([seed, row])
    weather, street = light.weather(rng), ground.street(rng)
    view = layout.view(rng, street, width, height)
    canvas = _empty(rng, view, weather)
    shadows = ground.Shadows(view, weather.slant, weather.sun)
    plan = layout.Layout(rng, view, street, weather, shadows)
    layout.filled(plan)
    ground.paint(canvas, view, street, shadows.light(0.35), weather.snow)
    layers = _in_sight(sorted(plan.layers, key=lambda a: -float(np.mean(a.depth))), view)
    kinds = []
    for layer in layers:
        if layer.counted:
            kinds.append(layer.kind)
        canvas.paint(layer, len(kinds) if layer.counted else 0)
    picture = light.developed(canvas, view, weather, _pools(plan, weather), rng)
    return Drawing(picture, canvas.classes, canvas.objects, np.array(kinds, np.int64), weather.kind)


def _empty(rng: np.random.Generator, view: View, weather: light.Weather) -> Canvas:
    sky = nature.sky(rng, view, weather.zenith, weather.low, weather.cover, weather.cloud)
    shape = sky.shape[:2]
    canvas = Canvas(sky, np.zeros_like(sky), np.full(shape, SKY, np.uint8), np.full(shape, np.inf, np.float32))
    nature.backdrop(canvas, rng, view)
    return canvas


def _in_sight(layers: list[Layer], view: View) -> list[Layer]:
    """Without the objects of which next to nothing is seen, so that every object in the picture has a box"""
    seen = visible(layers, view.height, view.width)
    whole = [float((layer.alpha >= 0.5).sum()) for layer in layers]
    return [layer for layer, n, all_of_it in zip(layers, seen, whole, strict=True)
            if not layer.counted or n >= max(SMALLEST, LEAST_SHARE * all_of_it)]  # fmt: skip


def _pools(plan: layout.Layout, weather: light.Weather) -> np.ndarray:
    """Light (H, W) of street lamps on what is around them"""
    view = plan.view
    total = np.zeros((view.height, view.width), np.float32)
    if not weather.night:
        return total
    y, x = np.arange(view.height, dtype=np.float32)[:, None], np.arange(view.width, dtype=np.float32)[None]
    for s, u in plan.lamps:
        X, d = view.camera(s, u)
        if d > 1.5:
            px, py = view.pixel(X, d, 0)
            wide = view.focal / d * 5
            total += 0.85 * np.exp(-np.square((x - px) / wide) - np.square((y - py) / (wide * 0.55)))
    return np.minimum(total, 1.1)
