"""What stands where in a street, drawn by lot, as layers of a picture."""

from dataclasses import dataclass, field

import numpy as np

from sftlib.datasets.street_scenes import nature, people, vehicles, walls
from sftlib.datasets.street_scenes.ground import Shadows, Street
from sftlib.datasets.street_scenes.light import Weather
from sftlib.datasets.street_scenes.view import Layer, View

FAR = 75.0  # metres along the street that are built up


@dataclass
class Layout:
    """Layers, the shadows they throw and the light of lamps (s, u, brightness), as they are placed one by one"""

    rng: np.random.Generator
    view: View
    street: Street
    weather: Weather
    shadows: Shadows
    layers: list[Layer] = field(default_factory=list)
    lamps: list[tuple[float, float]] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # s, u and half sides: cars and posts

    def add(self, *layers: Layer | None) -> None:
        """Keep the layers that are in the picture."""
        self.layers += [layer for layer in layers if layer is not None]

    def free(self, s: float, u: float, room: float) -> bool:
        """Whether nothing stands within ``room`` metres"""
        return all(abs(s - at) > rs + room or abs(u - across) > ru + room for at, across, rs, ru in self.taken)

    def side_road(self, s0: float, s1: float, side: int) -> bool:
        """Whether a road leaves between the two on this side"""
        return any(k == side and s1 > at - w / 2 - 1 and s0 < at + w / 2 + 1 for at, w, k in self.street.side_roads)


def filled(layout: Layout) -> None:
    """Houses, trees, posts, fences, cars and people."""
    city = layout.rng.random() < 0.55
    _houses(layout, city)
    for side in (0, 1):
        _row_of_trees(layout, side)
        _posts(layout, side)
        _fences(layout, side)
    _cars(layout)
    _people(layout)


def view(rng: np.random.Generator, street: Street, width: int, height: int) -> View:
    """Mostly along the street, sometimes across it; from a car or a person's eye, seldom from above"""
    focal, high = rng.uniform(0.75, 1.35) * width, rng.random() < 0.15
    yaw = rng.normal(0, 0.13) if rng.random() < 0.7 else rng.uniform(-1.25, 1.25)
    reach = street.half + np.array(street.pavements) - 0.4
    place = rng.uniform(-reach[0], reach[1])
    if abs(yaw) > 0.4:  # looking to one side, it stands on the other
        side = int(yaw < 0)
        place = (2 * side - 1) * rng.uniform(street.half * 0.6, reach[side])
    return View(
        width, height, float(focal), float(rng.uniform(0.34, 0.58) * height), rng.uniform(3, 6) if high else
        rng.uniform(1.25, 2.2), float(yaw), float(place), float(rng.choice([0, 1]) * rng.uniform(-1, 1) / 45),
    )  # fmt: skip


def _houses(layout: Layout, city: bool) -> None:
    """Along both sides; then those walls that are seen"""
    walls_ = [wall for side in (0, 1) for wall in _row_of_houses(layout, side, city)]
    walls_.sort(key=lambda wall: float(wall[0].depth.mean()))
    top, depth = np.full(layout.view.width, np.inf, np.float32), np.full(layout.view.width, np.inf, np.float32)
    for at, house, tone, blank in walls_:
        span = slice(at.left, at.left + len(at.depth))
        high = house.tall + walls.gable(house, at.along) * blank
        own = layout.view.horizon + layout.view.focal * (layout.view.eye - high) / at.depth
        seen = np.flatnonzero((own < top[span]) | (at.depth < depth[span]))
        if len(seen):
            below = np.where(at.depth < depth[span], np.inf, top[span])[seen].max()
            part = at.part(seen[0], seen[-1] + 1)
            layout.add(walls.front(layout.view, part, house, tone, blank, int(min(below, 4000)) + 2))
        np.copyto(depth[span], at.depth, where=own < top[span])
        np.copyto(top[span], own, where=own < top[span])


def _row_of_houses(layout: Layout, side: int, city: bool) -> list[tuple]:
    """-> (plane, house, tone, blank) of each wall on one side; roofs and shadows are added"""
    rng, view, sign = layout.rng, layout.view, 2 * side - 1
    line, s, found = layout.street.house_line(side), -14.0 - rng.uniform(0, 8), []
    gaps = rng.choice([0.05, 0.3, 0.7]) if city else rng.choice([0.3, 0.7, 0.95])
    lit = layout.weather.sun * layout.weather.slant[1] * sign
    tone = 1 - (0.35 if lit > 0.1 else 0.0)  # the front turned from the sun is darker
    ks, ku = layout.weather.slant
    while s < FAR:
        house = walls.house(rng, s, line + sign * rng.uniform(0, 0.4), layout.weather.night, city)
        s = house.s1 + (rng.uniform(1.5, 8) if rng.random() < gaps else 0.0)
        if layout.side_road(house.s0, house.s1, side):
            continue
        (a, b), (c, d) = (((at, house.u), (at, house.u + sign * walls.DEEP)) for at in (house.s0, house.s1))
        planes = [((a, c), tone, False), ((a, b), tone * 0.82, True), ((c, d), tone * 0.75, True)]
        for (start, end), light, blank in planes:
            at = walls.plane(view, view.camera(*start), view.camera(*end))
            if at is not None and len(at.depth) > 1:
                found.append((at, house, light, blank))
        layout.add(walls.roof(view, house, tone))
        if layout.weather.sun and ku * sign < 0:
            t = house.tall
            layout.shadows.polygon([a, c, (c[0] + ks * t, c[1] + ku * t), (a[0] + ks * t, a[1] + ku * t)])
    return found


def _row_of_trees(layout: Layout, side: int) -> None:
    """Along the pavement, and in front gardens"""
    rng, street, sign = layout.rng, layout.street, 2 * side - 1
    leaf = tuple(nature.LEAF[rng.integers(4 if rng.random() < 0.8 else 6)] * rng.uniform(0.7, 1.3))
    bare = rng.random() < (0.7 if layout.weather.snow else 0.15)
    lines = [street.half + 0.6] if rng.random() < 0.45 else []
    if street.setbacks[side] > 2.5:
        lines.append(street.half + street.pavements[side] + street.setbacks[side] * 0.5)
    for line in lines:
        s, step = rng.uniform(-2, 9), rng.uniform(6, 14)
        while s < FAR:
            _tree(layout, s, sign * line, rng.uniform(3.5, 9), leaf, bare)
            s += step * rng.uniform(0.8, 1.3)
    if street.setbacks[side] > 1.5 and rng.random() < 0.6:
        for s in rng.uniform(0, FAR * 0.7, rng.integers(2, 10)):
            _bush(layout, s, sign * (street.half + street.pavements[side] + rng.uniform(0.4, 1.4)), leaf)


def _tree(layout: Layout, s: float, u: float, tall: float, leaf, bare: bool) -> None:
    X, d = layout.view.camera(s, u)
    if d > 5 and layout.view.seen(s, u, 4) and not layout.side_road(s, s, int(u > 0)):
        layout.add(*nature.tree(layout.rng, layout.view, X, d, tall, leaf, bare))
        layout.taken.append((s, u, 0.3, 0.3))
    layout.shadows.standing(s, u, 0.15, 0, 0.4 * tall)
    if not bare and layout.weather.sun:
        ks, ku = layout.weather.slant
        for _ in range(5):
            z = layout.rng.uniform(0.4, 0.95) * tall
            jitter = layout.rng.normal(0, 0.12 * tall, 2)
            layout.shadows.disc(s + ks * z + jitter[0], u + ku * z + jitter[1], 0.16 * tall, 0.16 * tall)


def _bush(layout: Layout, s: float, u: float, leaf) -> None:
    X, d = layout.view.camera(s, u)
    if d > 4 and layout.view.seen(s, u, 1):
        tall = layout.rng.uniform(0.8, 1.8)
        wide = tall * layout.rng.uniform(0.6, 1.3)
        layout.add(nature.crown(layout.rng, layout.view, X, d, (-0.25, tall), wide, leaf))


def _posts(layout: Layout, side: int) -> None:
    """Lamps at even distances, signs here and there"""
    rng, street, view, sign = layout.rng, layout.street, layout.view, 2 * side - 1
    tall, step = rng.uniform(4.5, 8), rng.uniform(14, 30)
    if rng.random() < 0.7:
        for s in np.arange(rng.uniform(-3, 12), FAR, step):
            u = sign * (street.half + 0.45)
            X, d = view.camera(s, u)
            tip, _ = view.camera(s, u - sign * 1.4)
            if d > 2.5 and view.seen(s, u, 2):
                layout.add(*nature.lamp(rng, view, X, d, tall, float(tip - X), layout.weather.night))
                layout.taken.append((s, u, 0.2, 0.2))
            layout.lamps.append((s, u - sign * 1.4))
            layout.shadows.standing(s, u, 0.06, 0, tall)
    for s in rng.uniform(3, 45, rng.integers(0, 4)):
        u = sign * (street.half + rng.uniform(0.3, 0.6))
        X, d = view.camera(s, u)
        if d > 2.5 and view.seen(s, u, 1) and layout.free(s, u, 0.4):
            layout.add(*nature.sign(rng, view, X, d))
            layout.taken.append((s, u, 0.2, 0.2))


def _fences(layout: Layout, side: int) -> None:
    """Before gardens, seldom along the kerb"""
    rng, street, sign = layout.rng, layout.street, 2 * side - 1
    garden = street.setbacks[side] > 1.5 and rng.random() < 0.5
    if not garden and rng.random() > 0.08:
        return
    u = sign * (street.half + (street.pavements[side] + 0.1 if garden else 0.35))
    tall, bars = rng.uniform(0.8, 1.4), rng.random() < 0.6
    colour = tuple(rng.choice([0.1, 0.35, 0.8]) * rng.uniform(0.8, 1.2) * np.array([1, 0.93, 0.85]))
    s = rng.uniform(-10, 4)
    while s < FAR * 0.8:
        end = s + 3.0
        if not layout.side_road(s, end, side) and rng.random() < 0.93:
            at = walls.plane(layout.view, layout.view.camera(s, u), layout.view.camera(end, u))
            if at is not None and len(at.depth) > 1:
                layout.add(walls.fence(layout.view, at, tall, colour, bars))
        s = end
    if not garden:
        layout.taken.append((FAR / 2, u, FAR / 2, 0.2))


def _cars(layout: Layout) -> None:
    rng, street = layout.rng, layout.street
    lane = 2 * street.half / street.lanes
    busy, parked = rng.choice([0.0, 0.3, 0.8]), rng.choice([0.0, 0.4, 0.85], 2)
    for side in (0, 1):
        if street.half > 2.4:
            _queue(layout, (2 * side - 1) * (street.half - 1.05), 2 * side - 1, parked[side], 6.2, lights=False)
    for i in range(street.lanes):
        u = -street.half + (i + 0.5) * lane
        if not (street.half > 2.4 and parked[int(u > 0)] and abs(u) > street.half - 2.6):
            _queue(layout, u, 1 if u >= 0 else -1, busy, 17, lights=layout.weather.night or rng.random() < 0.3)


def _queue(layout: Layout, u: float, heading: int, share: float, step: float, lights: bool) -> None:
    rng, view = layout.rng, layout.view
    for s in np.arange(rng.uniform(-4, step), 60, step):
        s, across = s + rng.uniform(-0.3, 0.3) * step / 4, u + rng.normal(0, 0.1)
        car = vehicles.car(rng, s, across, heading, lights)
        near = abs(across - view.place) < 2 and -6 < s < 6.5
        crossing = layout.street.crossing is not None and abs(s - layout.street.crossing) < 2 + car.length / 2
        side = layout.side_road(s - 2, s + 2, int(u > 0)) and step < 10
        if rng.random() > share or near or crossing or side or not layout.free(s, across, car.length / 2):
            continue
        layout.taken.append((s, across, car.length / 2, car.width / 2))
        tall, half = vehicles.SIZES[car.body][1], car.width / 2
        corners = (s, across) + np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * (car.length / 2, half)
        layout.shadows.polygon(corners, 200)
        if layout.weather.sun:
            thrown = corners + np.array(layout.weather.slant) * tall * 0.85
            for a in range(4):
                layout.shadows.polygon([corners[a], corners[a - 1], thrown[a - 1], thrown[a]])
            layout.shadows.polygon(thrown)
        if view.camera(s, across)[1] > 3 and view.seen(s, across, 4):
            layout.add(vehicles.painted(view, car))


def _people(layout: Layout) -> None:
    """None in a fifth of the pictures; else some, at any distance, alone or together; and people on bicycles"""
    rng, view = layout.rng, layout.view
    count = 0 if rng.random() < 0.2 else 1 + rng.poisson(rng.choice([0.7, 2.5, 5]))
    for _ in range(count):
        place = _place(layout, road=0.12)
        if place is not None:
            for k in range(1 + (rng.random() < 0.3)):
                beside = k * rng.choice([-1, 1]) * rng.uniform(0.45, 0.8)
                _person(layout, place[0] + k * rng.uniform(-0.5, 0.5), place[1] + beside)
    for _ in range(rng.poisson(0.35)):
        place = _place(layout, road=1.0)
        if place is not None:
            s, u = place
            X, d = view.camera(s, u)
            squeeze = max(abs(np.sin(view.yaw - np.arctan2(X, d))), 0.22)
            layout.add(people.bicyclist(view, X, d, people.look(rng, False), float(squeeze)))
            layout.shadows.standing(s, u, 0.25, 0, 1.6)
            layout.taken.append((s, u, 0.8, 0.5))


def _place(layout: Layout, road: float) -> tuple[float, float] | None:
    """Somewhere in sight on a pavement, or with this chance on the road; most likely on a crossing"""
    rng, view, street = layout.rng, layout.view, layout.street
    farthest = min(view.focal * 1.7 / 11, 60)
    for _ in range(40):
        d = 2.6 * (farthest / 2.6) ** rng.random() + 1
        X = rng.uniform(-0.52, 0.52) * view.width / view.focal * d
        s, u = view.street(X, d)
        beyond = abs(u) - street.half
        on_crossing = street.crossing is not None and abs(s - street.crossing) < 1.5
        chance = 0.0 if beyond > street.pavements[int(u > 0)] - 0.2 or abs(beyond) < 0.25 else 1.0
        if beyond < 0:
            chance *= max(road, 0.9 * on_crossing)
        elif road == 1.0:
            chance = 0.0
        if rng.random() < chance and layout.free(s, u, 0.35):
            return float(s), float(u)
    return None


def _person(layout: Layout, s: float, u: float) -> None:
    who = people.look(layout.rng, layout.weather.wet > 0 and layout.weather.kind == "rain")
    X, d = layout.view.camera(s, u)
    if d > 2.5 and layout.free(s, u, 0.2):
        layout.add(people.pedestrian(layout.view, X, d, who))
        layout.shadows.standing(s, u, 0.2 * who.stout, 0, who.tall)
        layout.taken.append((s, u, 0.2, 0.25))
