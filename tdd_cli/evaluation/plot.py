"""Line plots with error bars, as SVG text: for report.html and for the pictures in docs/.

Not matplotlib or plotly: no dependency, no 3 MB of script in every page, one file for light and dark paper.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#3366cc", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#b08900", "#c2255c", "#5c677d")
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 34, 44
ROW = 18  # pixels of a line of the legend
MANY = 8  # lines of the plot, above which the legend has two columns
LEGEND = {1: 50, 2: 22}  # columns of the legend -> characters of its lines
APART = 26  # least pixels between two numbers of the x axis
DODGE = 6  # pixels between lines with error bars at one x, where there is room
MARKS = {  # told apart without colour too: outline around (0, 0)
    "circle": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z",
    "square": "M-3.4 -3.4h6.8v6.8h-6.8z",
    "diamond": "M0 -5l5 5l-5 5l-5 -5z",
    "triangle": "M0 -4.5l4.6 8h-9.2z",
    "turned triangle": "M0 4.5l4.6 -8h-9.2z",
    "cross": "M-4.6 -1.5h3.1v-3.1h3v3.1h3.1v3h-3.1v3.1h-3v-3.1h-3.1z",
}
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 5")  # of the lines of one group
LEVEL = "5 4"


@dataclass(frozen=True)
class Point:
    """One value, with the ends of its error bar, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Points of one kind, in the order of x; a level is a line across the whole plot.

    Lines of one group have one colour. A line without points stands in the legend only.
    """

    name: str
    points: Sequence[Point]
    level: bool = False
    group: str | None = None


@dataclass(frozen=True)
class Style:
    """How a line is told from the others."""

    colour: str
    mark: str
    dashes: str
    shift: float  # pixels to the right


def plot(title: str, x_name: str, y_name: str, lines: Sequence[Line], *, known: Sequence[str] = ()) -> str:
    """An SVG picture of lines over common axes; readable on light and dark paper.

    known  groups that have the first colours, in this order, whether they are in this plot or not
    """
    points = [point for line in lines for point in line.points]
    xs = sorted({point.x for line in lines if not line.level for point in line.points}) or [0.0]
    lows = [point.y if point.low is None else point.low for point in points] or [0.0]
    highs = [point.y if point.high is None else point.high for point in points] or [1.0]
    y_ticks, x_ticks = ticks(min(lows), max(highs)), _x_ticks(xs)
    to_x = _to_x(min(xs[0], x_ticks[0]), max(xs[-1], x_ticks[-1]))
    to_y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    gap = min((to_x(b) - to_x(a) for a, b in itertools.pairwise(xs)), default=APART)
    looks = styles(lines, gap, known)
    legend, height = _legend(lines, looks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
        f"<title>{escape(title)}</title>",
        # a file of its own has no page to take its colour from
        "<style>svg:root{color:#1a1d21}@media (prefers-color-scheme:dark){svg:root{color:#e7e9ec}}</style>",
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
    for line, style in zip(lines, looks, strict=True):
        parts += _drawn(line, style, to_x, to_y)
    return "".join([*parts, *legend, "</svg>"])


def styles(lines: Sequence[Line], gap: float, known: Sequence[str] = ()) -> list[Style]:
    """A colour for each group, marks and dashes for the lines in it; lines with error bars side by side.

    gap  pixels between neighbouring values of x
    """
    reserved = [f"group {name}" for name in known]
    groups = list(dict.fromkeys([*reserved, *(_group(line, i) for i, line in enumerate(lines))]))
    members: dict[str, int] = {}
    shifts = _shifts(lines, gap)
    found = []
    for i, (line, shift) in enumerate(zip(lines, shifts, strict=True)):
        group = _group(line, i)
        colour, place = groups.index(group), members.get(group, 0)
        members[group] = place + 1
        kind = colour + colour // len(COLOURS) + place
        dashes = LEVEL if line.level else DASHES[place % len(DASHES)]
        mark = list(MARKS.values())[kind % len(MARKS)]
        found.append(Style(COLOURS[colour % len(COLOURS)], mark, dashes, shift))
    return found


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most low to at least high."""
    if not high > low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _x_ticks(xs: Sequence[float]) -> Sequence[float]:
    """The values themselves where they leave room for their numbers, else round ones."""
    to_x = _to_x(xs[0], xs[-1])
    roomy = all(to_x(b) - to_x(a) >= APART for a, b in itertools.pairwise(xs))
    return xs if roomy else ticks(xs[0], xs[-1])


def _to_x(low: float, high: float) -> Scale:
    return Scale(low, high, LEFT + 12, WIDTH - RIGHT - 12)


def _group(line: Line, i: int) -> str:
    """Its group; its own where it has none."""
    return f"{i}" if line.group is None else f"group {line.group}"


def _shifts(lines: Sequence[Line], gap: float) -> list[float]:
    """Pixels that each line stands beside its x, so that error bars do not hide each other."""
    barred = [
        i
        for i, line in enumerate(lines)
        if not line.level and any(point.low is not None for point in line.points)
    ]
    if len(barred) < 2:
        return [0.0] * len(lines)
    between = len(barred) - 1
    step = min(DODGE, 20 / between, 0.4 * gap / between)
    at = {i: (place - between / 2) * step for place, i in enumerate(barred)}
    return [at.get(i, 0.0) for i in range(len(lines))]


def _drawn(line: Line, style: Style, to_x: Scale, to_y: Scale) -> Iterable[str]:
    """The line, its marks and its error bars."""
    if line.level:
        for y in (to_y(point.y) for point in line.points[:1]):
            yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" {_stroke(style, 1.5)}/>'
        return
    at = [(to_x(point.x) + style.shift, to_y(point.y)) for point in line.points]
    yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}" {_stroke(style, 2)}/>'
    for point, (x, y) in zip(line.points, at, strict=True):
        if point.low is not None and point.high is not None:
            low, high = to_y(point.low), to_y(point.high)
            yield (
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6" '
                f'stroke="{style.colour}" fill="none"/>'
            )
        yield _marked(style, x, y)


def _legend(lines: Sequence[Line], looks: Sequence[Style]) -> tuple[list[str], float]:
    """(what each line looks like and is called, in two columns where they are many; the picture's height)"""
    columns = 1 if len(lines) <= MANY else 2
    tall = max(-(-len(lines) // columns), 1)  # entries of a column
    parts, height = [], HEIGHT + 4
    for start in range(0, len(lines), tall):
        x, y = (LEFT, HEIGHT + 8) if start == 0 else (LEFT + (WIDTH - LEFT) // 2, HEIGHT + 8)
        for line, style in zip(lines[start : start + tall], looks[start : start + tall], strict=True):
            if line.points:
                parts.append(f'<path d="M{x} {y}h24" {_stroke(style, 2)}/>')
            if line.points and not line.level:
                parts.append(_marked(style, x + 12, y))
            for text in textwrap.wrap(line.name, LEGEND[columns], subsequent_indent="\u00a0\u00a0") or [""]:
                parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(text)}</text>')
                y += ROW
        height = max(height, y - 4)
    return parts, height


def _stroke(style: Style, width: float) -> str:
    dashes = f' stroke-dasharray="{style.dashes}"' if style.dashes else ""
    return f'stroke="{style.colour}" stroke-width="{width}" fill="none"{dashes}'


def _marked(style: Style, x: float, y: float) -> str:
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{style.mark}" fill="{style.colour}"/>'


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
