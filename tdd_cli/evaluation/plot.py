"""Line plots with error bars, as SVG text: for report.html and for the pictures in docs/."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#3366cc", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#b08900", "#c2255c", "#5c677d")
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 34, 44
ROW = 18  # pixels of a line of the legend
MARKS = ("circle", "square", "diamond", "triangle")  # told apart without colour too


@dataclass(frozen=True)
class Point:
    """One value, with the ends of its error bar, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Points of one kind, in the order of x; a level is a line across the whole plot."""

    name: str
    points: Sequence[Point]
    level: bool = False


def plot(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """An SVG picture of lines over common axes; readable on light and dark paper."""
    points = [point for line in lines for point in line.points]
    xs = sorted({point.x for line in lines if not line.level for point in line.points}) or [0.0]
    lows = [point.y if point.low is None else point.low for point in points]
    highs = [point.y if point.high is None else point.high for point in points]
    y_ticks = ticks(min(lows), max(highs))
    x_ticks = xs if len(xs) <= 8 else ticks(xs[0], xs[-1])
    to_x = Scale(min(xs[0], x_ticks[0]), max(xs[-1], x_ticks[-1]), LEFT + 12, WIDTH - RIGHT - 12)
    to_y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    height = HEIGHT + ROW * len(lines) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for y in y_ticks:
        at = to_y(y)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="currentColor" '
            f'stroke-opacity="0.15"/>',
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_tidy(y)}</text>',
        ]
    for x in x_ticks:
        parts.append(
            f'<text x="{to_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_tidy(x)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>',
    ]
    for i, line in enumerate(lines):
        parts += _drawn(line, i, to_x, to_y)
        y = HEIGHT + ROW * i + 8
        parts.append(
            f'<g color="{_colour(i)}">{_key(line, i, y)}</g>'
            f'<text x="{LEFT + 30}" y="{y + 4}">{escape(line.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most low to at least high."""
    if not high > low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _drawn(line: Line, i: int, to_x: Scale, to_y: Scale) -> Iterable[str]:
    """The line, its marks and its error bars."""
    colour = _colour(i)
    if line.level:
        y = to_y(line.points[0].y)
        yield (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" '
            f'stroke-width="1.5" stroke-dasharray="5 4"/>'
        )
        return
    path = " ".join(f"{to_x(point.x):.1f},{to_y(point.y):.1f}" for point in line.points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for point in line.points:
        x = to_x(point.x)
        if point.low is not None and point.high is not None:
            low, high = to_y(point.low), to_y(point.high)
            yield (
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8" '
                f'stroke="{colour}" fill="none"/>'
            )
        yield f'<g color="{colour}">{_mark(i, x, to_y(point.y))}</g>'


def _key(line: Line, i: int, y: float) -> str:
    """A line of the legend: what the line looks like."""
    dashes = ' stroke-dasharray="5 4"' if line.level else ""
    ends = f'x1="{LEFT}" x2="{LEFT + 24}" y1="{y}" y2="{y}"'
    stroke = f'<line {ends} stroke="currentColor" stroke-width="2"{dashes}/>'
    return stroke if line.level else stroke + _mark(i, LEFT + 12, y)


def _mark(i: int, x: float, y: float) -> str:
    kind = MARKS[i % len(MARKS)]
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="currentColor"/>'
    if kind == "square":
        return f'<rect x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8" fill="currentColor"/>'
    if kind == "diamond":
        return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="currentColor"/>'
    return f'<path d="M{x:.1f} {y - 4.5:.1f}l4.6 8h-9.2z" fill="currentColor"/>'


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


class Scale:
    """Values to pixels, linearly."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.per = (end - start) / (high - low) if high > low else 0.0
        self.offset = 0.0 if high > low else (end - start) / 2

    def __call__(self, value: float) -> float:
        return self.start + self.offset + (value - self.low) * self.per


def _tidy(value: float) -> str:
    return f"{value:.6g}"
