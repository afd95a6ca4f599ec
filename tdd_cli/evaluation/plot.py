"""Line plots with error bars, as SVG text: for report.html and for the pictures in docs/."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3366cc", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#b08900", "#c2255c", "#5c677d")
MARKS = ("o", "s", "D", "^", "v", "P")  # told apart without colour too
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 2)), (0, (5, 2, 1, 2)), (0, (2, 2)), (0, (1, 3)))
LEVEL = (0, (3, 2))
WIDTH, HEIGHT = 4.8, 2.9  # inches, without the legend
ENTRY = 0.18  # inches of a line of the legend
MANY = 8  # lines of the plot, above which the legend has two columns
LEGEND = {1: 56, 2: 24}  # columns of the legend -> characters of its lines
APART = 0.28  # least inches between two numbers of the x axis
DODGE = 0.06  # inches between lines with error bars at one x, where there is room
INK = "#010203"  # of text and axes while they are drawn: the paper's own colour in the end
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollars
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}
# a file of its own has no page to take its colour from
PAPER = "<style>svg:root{color:#1a1d21}@media (prefers-color-scheme:dark){svg:root{color:#e7e9ec}}</style>"


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
class Look:
    """How a line is told from the others."""

    colour: str
    mark: str
    dashes: Any
    shift: float  # inches to the right

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """As matplotlib takes it."""
        return {"color": self.colour, "marker": self.mark, "linestyle": self.dashes}


def plot(title: str, x_name: str, y_name: str, lines: Sequence[Line], *, known: Sequence[str] = ()) -> str:
    """An SVG picture of lines over common axes; readable on light and dark paper.

    known  groups that have the first colours, in this order, whether they are in this plot or not
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = 1 if len(lines) <= MANY else 2
    names = ["\n   ".join(textwrap.wrap(line.name, LEGEND[columns]) or [" "]) for line in lines]
    entries = sum(name.count("\n") + 1 for name in names) / columns
    settings = {**STYLE, "svg.hashsalt": title}  # equal plots, equal files
    with style.context(["default", settings]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that this font lacks: a browser has them
        figure = Figure(figsize=(WIDTH, HEIGHT + ENTRY * (entries + 1)), layout="constrained")
        axes = figure.subplots()
        xs = sorted({point.x for line in lines if not line.level for point in line.points})
        gap = min((b - a for a, b in itertools.pairwise(xs)), default=1.0) * _inches_per_unit(xs)
        styled = zip(lines, looks(lines, gap, known), strict=True)
        handles = [_draw(axes, line, look) for line, look in styled]
        if xs and gap >= APART:
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set(title=title, xlabel=x_name, ylabel=y_name)
        axes.margins(x=0.06)
        figure.legend(handles, names, loc="outside lower left", ncols=columns)
        return _svg(figure, title)


def looks(lines: Sequence[Line], gap: float, known: Sequence[str] = ()) -> list[Look]:
    """A colour for each group, marks and dashes for the lines in it; lines with error bars side by side.

    gap  inches between neighbouring values of x
    """
    reserved = [f"group {name}" for name in known]
    groups = list(dict.fromkeys([*reserved, *(_group(line, i) for i, line in enumerate(lines))]))
    members: dict[str, int] = {}
    found = []
    for i, (line, shift) in enumerate(zip(lines, _shifts(lines, gap), strict=True)):
        group = _group(line, i)
        colour, place = groups.index(group), members.get(group, 0)
        members[group] = place + 1
        kind = colour + colour // len(COLOURS) + place
        dashes = LEVEL if line.level else DASHES[place % len(DASHES)]
        found.append(Look(COLOURS[colour % len(COLOURS)], MARKS[kind % len(MARKS)], dashes, shift))
    return found


def _group(line: Line, i: int) -> str:
    """Its group; its own where it has none."""
    return f"{i}" if line.group is None else f"group {line.group}"


def _shifts(lines: Sequence[Line], gap: float) -> list[float]:
    """Inches that each line stands beside its x, so that error bars do not hide each other."""
    barred = [
        i
        for i, line in enumerate(lines)
        if not line.level and any(point.low is not None for point in line.points)
    ]
    if len(barred) < 2:
        return [0.0] * len(lines)
    between = len(barred) - 1
    step = min(DODGE, 0.2 / between, 0.4 * gap / between)
    at = {i: (place - between / 2) * step for place, i in enumerate(barred)}
    return [at.get(i, 0.0) for i in range(len(lines))]


def _inches_per_unit(xs: Sequence[float]) -> float:
    """Roughly: of the axis that holds these values."""
    return 0.8 * WIDTH / (xs[-1] - xs[0]) if len(xs) > 1 else 1.0


def _draw(axes: Axes, line: Line, look: Look) -> Artist:
    """The line, its marks and its error bars; returns what stands for it in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    if not line.points:
        return Line2D([], [], linestyle="none")
    if line.level:
        return axes.axhline(line.points[0].y, color=look.colour, linestyle=look.dashes)
    bars = [(point.x, point.low, point.high) for point in line.points if point.low is not None]
    x, y = [point.x for point in line.points], [point.y for point in line.points]
    (drawn,) = axes.plot(x, y, **look.kwargs)
    parts: list[Artist] = [drawn]
    if bars:
        parts.append(axes.vlines(*zip(*bars, strict=True), color=look.colour, linewidth=1))
    for part in parts:  # moved only now: the axes' limits are those of the values
        part.set_transform(axes.transData + ScaledTranslation(look.shift, 0, axes.figure.dpi_scale_trans))
    return drawn


def _svg(figure: Figure, title: str) -> str:
    """The figure as SVG that may stand in a page beside others: no numbered ids, the page's own ink."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r' id="[\w.]+_\d+"', "", text.getvalue().partition("<svg")[2])
    head, _, body = svg.replace(INK, "currentColor").partition(">")
    return f'<svg role="img"{head}><title>{escape(title)}</title>{PAPER}{body}'
