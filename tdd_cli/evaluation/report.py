"""report.html: one self-contained page with figures, plots, pictures and what may be compared with what."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tdd_cli.evaluation.metrics import COLUMNS, METRICS
from tdd_cli.evaluation.plot import Line, Point, plot
from tdd_cli.evaluation.results import Entry, Result
from tdd_cli.evaluation.table import SETTINGS, heading, plain, rows, settings_shown
from tdd_cli.files import write_atomic

TEMPLATE = Path(__file__).with_name("report.html.j2")
AXES = {"steps": "sampling steps", "guidance": "guidance scale, 1 = off"}


def write_report(result: Result, path: Path) -> None:
    """Write the page."""
    write_atomic(path, page(result))


def page(result: Result) -> str:
    """The page's HTML; everything in it, pictures too."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = rows(result)
    return template.render(
        result=result,
        title=f"{result.protocol['set']}, {result.protocol['n']:,} pictures",
        settings=[SETTINGS[name] for name in settings_shown(result)],
        columns=["\u00a0".join(heading(name).rsplit(" ", 1)) for name in result.columns()],
        rows=shown,
        intervals=any(cell and cell.interval for row in shown for cell in row.cells),
        changes=any(cell and cell.change for row in shown for cell in row.cells),
        plots=plots(result),
        samples=[
            (title(entry, result), {row: _embedded(image) for row, image in entry.samples.items()})
            for entry in result.entries
            if entry.samples
        ],
    )


def plots(result: Result) -> list[str]:
    """Every figure of quality against steps and guidance, where at least two values were tried."""
    quality = [name for name in result.columns() if name not in METRICS["speed"].columns]
    found = []
    for axis, axis_name in AXES.items():
        for name in quality:
            lines = lines_of(result, name, axis)
            if any(len(line.points) > 1 for line in lines):
                column = COLUMNS[name]
                y_name = f"{column.title} ({column.better} is better)"
                found.append(plot(f"{column.title} against {axis}", axis_name, y_name, lines))
    return found


def lines_of(result: Result, name: str, axis: str) -> list[Line]:
    """A line for each subject and combination of its other settings; baselines with one value as levels."""
    others = [setting for setting in settings_shown(result) if setting != axis]
    groups: dict[tuple[bool, str], list[Point]] = {}
    for entry in result.entries:
        x = entry.sampling.get(axis)
        if name not in entry.figures or not isinstance(x, (int, float)):
            continue
        figure = entry.figures[name]
        key = (entry.baseline, _named(entry, others))
        groups.setdefault(key, []).append(Point(float(x), figure.value, figure.low, figure.high))
    return [
        Line(label, sorted(points, key=lambda point: point.x), level=baseline and len(points) == 1)
        for (baseline, label), points in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def title(entry: Entry, result: Result) -> str:
    """An entry's name with the settings that tell it from the others."""
    return _named(entry, settings_shown(result))


def _named(entry: Entry, settings: Sequence[str]) -> str:
    shown = [f"{SETTINGS[name]} {plain(entry.sampling[name])}" for name in settings if name in entry.sampling]
    return ", ".join([entry.label, *shown])


def _embedded(image: Image.Image) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
