"""Live curves as SVG text: a redraw costs under a millisecond (matplotlib: 25), and it follows the page's theme."""

import html
import math

from sftlib.plotting.style import CYCLE

DASHES = ("", "7 3", "2 3", "9 3 2 3")
TEXT = 'font-family="sans-serif" font-size="11" fill="currentColor"'


def svg_curves(title, series, *, xlabel, width=360, height=190, max_points=300, marks=(), events=()):
    """series: name -> (x, y), two lists of one length -> an SVG picture as a string.

    A name that starts with "_" is drawn pale and is not named. Text and axes have the colour of the surrounding
    text, so that a dark theme works. A value that is not finite is left out.
    marks: (x, y, text) each, a ring around that point; events: (x, text) each, a dotted line upwards from x.
    """
    lines = {name: thin(*xy, max_points) for name, xy in series.items()}
    points = [p for line in lines.values() for p in line if math.isfinite(p[1])]
    named = {name: xy for name, xy in series.items() if not name.startswith("_")}
    now = ", ".join(f"{name} {_last(y)}" for name, (_, y) in named.items())
    frame = f'<svg width="{width}" height="{height}" role="img" aria-label="{html.escape(f"{title}: {now}")}">'
    heading = f'<text x="6" y="14" font-weight="bold" {TEXT}>{html.escape(title)}</text>'
    if not points:
        return f'{frame}{heading}<text x="6" y="34" {TEXT} opacity=".7">no data yet</text></svg>'
    box = _Box(points, left=46, right=width - 10, top=40, bottom=height - 32)
    drawn = [_polyline(box, line, i - (len(lines) - len(named)), name) for i, (name, line) in enumerate(lines.items())]
    drawn += [*_events(box, events), *_rings(box, marks)]
    return frame + heading + _legend(named) + _axes(box, xlabel) + "".join(drawn) + "</svg>"


def thin(x, y, max_points):
    """Two lists of one length -> at most max_points + 1 pairs, evenly taken, the last one always among them.

    Every 2nd, 4th, 8th … pair: as a curve grows, the points that were drawn stay where they are. The cost does not
    grow with the length.
    """
    stride = 1 << max(0, math.ceil(math.log2(len(x) / max_points))) if len(x) else 1
    pairs = list(zip(x[::stride], y[::stride], strict=True))
    return pairs + ([(x[-1], y[-1])] if len(x) and (len(x) - 1) % stride else [])


def nice_ticks(low, high, count=4):
    """(low, high) -> ticks at 1, 2 or 5 times a power of ten, the first ≤ low and the last ≥ high."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal, but for rounding
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    power = 10 ** math.floor(math.log10((high - low) / count))
    step = next(s * power for s in (1, 2, 5, 10) if s * power * count >= (high - low) * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


class _Box:
    """Where a value lies in the picture; holds the ranges of both axes."""

    def __init__(self, points, *, left, right, top, bottom):
        self.left, self.right, self.top, self.bottom = left, right, top, bottom
        self.x_low, self.x_high = min(p[0] for p in points), max(p[0] for p in points)
        self.ticks = nice_ticks(min(p[1] for p in points), max(p[1] for p in points))

    def x(self, value):
        span = self.x_high - self.x_low
        return self.left + (self.right - self.left) * ((value - self.x_low) / span if span else 0.5)

    def y(self, value):
        low, high = self.ticks[0], self.ticks[-1]
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)


def _polyline(box, line, number, name):
    pale = name.startswith("_")
    colour, dash = ("currentColor", "") if pale else (CYCLE[number % 6], DASHES[number % 4])
    kept = [(box.x(x), box.y(y)) for x, y in line if math.isfinite(y)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    look = f'fill="none" stroke="{colour}" stroke-width="{1 if pale else 2.2}" opacity="{0.35 if pale else 1}"'
    dot = "" if pale or not kept else f'<circle cx="{kept[-1][0]:.1f}" cy="{kept[-1][1]:.1f}" r="3" fill="{colour}"/>'
    return f'<polyline points="{points}" {look} stroke-dasharray="{dash}"/>{dot}'


def _events(box, events, rows=3):
    """Dotted lines, the last few with their texts, which take turns in three rows so that neighbours stay readable."""
    for i, (x, text) in enumerate(events):
        place, row = box.x(x), box.top + 9 + 11 * (i % rows)
        line = 'stroke="currentColor" stroke-dasharray="2 3" opacity=".8"'
        yield f'<path d="M{place:.1f} {box.bottom}V{box.top}" {line}/>'
        if i >= len(events) - 2 * rows:
            side = "end" if place > (box.left + box.right) / 2 else "start"
            shift = -4 if side == "end" else 4
            yield f'<text x="{place + shift:.1f}" y="{row}" text-anchor="{side}" {TEXT}>{html.escape(text)}</text>'


def _rings(box, marks):
    for x, y, text in marks:
        if math.isfinite(y):
            place, height = box.x(x), box.y(y)
            side = "end" if place > (box.left + box.right) / 2 else "start"
            below = height + (18 if height < (box.top + box.bottom) / 2 else -10)
            yield (
                f'<circle cx="{place:.1f}" cy="{height:.1f}" r="6" fill="none" stroke="currentColor" '
                f'stroke-width="1.6"/><text x="{place:.1f}" y="{below:.1f}" text-anchor="{side}" {TEXT}>'
                f"{html.escape(text)}</text>"
            )


def _legend(named):
    """The names with their last values in one row, each beside a piece of its line."""
    parts, x = [], 6
    for i, (name, (_, y)) in enumerate(named.items()):
        text = f"{name} {_last(y)}"
        line = f'stroke="{CYCLE[i % 6]}" stroke-width="2.2" stroke-dasharray="{DASHES[i % 4]}"'
        parts.append(f'<path d="M{x} 26h22" {line}/><text x="{x + 27}" y="30" {TEXT}>{html.escape(text)}</text>')
        x += 27 + 7 * len(text) + 12
    return "".join(parts)


def _axes(box, xlabel):
    rows = "".join(
        f'<path d="M{box.left} {box.y(t):.1f}H{box.right}" stroke="currentColor" opacity=".18"/>'
        f'<text x="{box.left - 6}" y="{box.y(t) + 4:.1f}" text-anchor="end" {TEXT}>{t:.4g}</text>'
        for t in box.ticks
    )
    last = f"{box.x_high:g}" if box.x_high > box.x_low else ""
    below, middle = box.bottom + 14, (box.left + box.right) / 2
    return (
        f'{rows}<text x="{box.left}" y="{below}" {TEXT}>{box.x_low:g}</text>'
        f'<text x="{box.right}" y="{below}" text-anchor="end" {TEXT}>{last}</text>'
        f'<text x="{middle}" y="{below + 12}" text-anchor="middle" {TEXT}>{html.escape(xlabel)}</text>'
    )


def _last(y):
    return next((f"{v:.3f}" for v in reversed(y) if math.isfinite(v)), "–")
