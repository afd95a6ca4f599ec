"""report.html: one self-contained page with figures, plots, pictures and what may be compared with what."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tdd_cli.evaluation.metrics import COLUMNS, METRICS
from tdd_cli.evaluation.plot import Line, Point, plot
from tdd_cli.evaluation.protocol import record_hash
from tdd_cli.evaluation.results import Entry, Result
from tdd_cli.evaluation.table import EQUAL, is_capped, ordered, rows
from tdd_cli.evaluation.wording import (
    SETTINGS,
    heading,
    label_of,
    marks,
    setting,
    settings_said,
    settings_shown,
    subject_key,
    words,
)
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
    environment.filters["words"] = words
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = rows(result)
    return template.render(
        result=result,
        title=f"{result.protocol['set']}, {result.protocol['n']:,} pictures",
        settings=[SETTINGS[name] for name in settings_shown(result)],
        columns=["\u00a0".join(heading(name).rsplit(" ", 1)) for name in result.columns()],
        rows=shown,
        said=settings_said(result),
        intervals=any(cell and cell.interval for row in shown for cell in row.cells),
        changes=any(cell and cell.change for row in shown for cell in row.cells),
        best=any(cell and cell.best for row in shown for cell in row.cells),
        equal=any(cell and cell.text == EQUAL for row in shown for cell in row.cells),
        marked=any(row.mark for row in shown),
        baselines=sum(row.baseline for row in shown),
        plots=plots(result),
        samples=[
            (title(entry, result), {row: _embedded(image) for row, image in entry.samples.items()})
            for entry in ordered(result.entries)
            if entry.samples
        ],
        subjects=subjects(result),
        places=places(result),
    )


def subjects(result: Result) -> dict[str, str]:
    """Whose pictures were measured: the name in the table, and what identifies it."""
    mark = marks(result.entries)
    return {label_of(entry, mark): words(entry.source) for entry in ordered(result.entries)}


def places(result: Result) -> dict[str, str]:
    """What the figures were measured on, and, where that was several, whose."""
    mark, found = marks(result.entries), {}
    for key, record in result.environments.items():
        measured = dict.fromkeys(
            label_of(entry, mark)
            for entry in ordered(result.entries)
            if any(figure.environment == key for figure in entry.figures.values())
        )
        several = len(result.environments) > 1 and measured
        found[key] = words(record) + (f". Figures of {', '.join(measured)}" if several else "")
    return found


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


@dataclass
class _Group:
    """The entries of one line, while they are gathered."""

    first: Entry
    points: list[Point] = field(default_factory=list)
    capped: int = 0  # entries whose pictures are the teacher's: no scale holds them


def lines_of(result: Result, name: str, axis: str) -> list[Line]:
    """A line for each subject and combination of its other settings; baselines with one value as levels."""
    shown = settings_shown(result)
    others = [each for each in shown if each != axis]
    mark = marks(result.entries)
    groups: dict[tuple[bool, str, str], _Group] = {}
    for entry in ordered(result.entries):
        x = entry.sampling.get(axis)
        if name not in entry.figures or not isinstance(x, (int, float)):
            continue
        figure = entry.figures[name]
        rest = {key: value for key, value in entry.sampling.items() if key != axis}
        group = groups.setdefault((entry.baseline, subject_key(entry), record_hash(rest)), _Group(entry))
        if is_capped(name, figure):
            group.capped += 1
        else:
            group.points.append(Point(float(x), figure.value, figure.low, figure.high))
    found = []
    for (baseline, subject, _), group in sorted(groups.items(), key=lambda item: item[0][0]):
        level = baseline and len(group.points) + group.capped == 1
        label = _named(group.first, shown if level else others, mark)
        found.append(
            Line(
                label + (": equal pictures, off the scale" if group.capped else ""),
                sorted(group.points, key=lambda point: point.x),
                level=level,
                group=subject,
            )
        )
    return found


def title(entry: Entry, result: Result) -> str:
    """An entry's name with the settings that tell it from the others."""
    return _named(entry, settings_shown(result), marks(result.entries))


def _named(entry: Entry, settings: Sequence[str], mark: dict[str, str]) -> str:
    shown = [
        f"{SETTINGS[name]} {setting(name, entry.sampling[name])}"
        for name in settings
        if name in entry.sampling
    ]
    return ", ".join([label_of(entry, mark), *shown])


def _embedded(image: Image.Image) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
