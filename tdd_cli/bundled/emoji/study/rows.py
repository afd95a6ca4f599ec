"""What was measured, as rows of a CSV file: the study goes on from them, on this machine or another."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdd_cli.bundled.emoji.study.plan import Point, Size, spent
from tdd_cli.errors import DataError
from tdd_cli.evaluation.results import Entry, Result

FILE = "study.csv"
FIGURES = ("fid", "kid", "clip", "distance")
TEACHER = "teacher"  # whose row is no run's


@dataclass(frozen=True)
class Row:
    """The figures of a run under some sampling settings, and where they were measured."""

    point: Point
    figures: Mapping[str, float]
    date: str
    processor: str
    torch: str


@dataclass(frozen=True)
class Terms:
    """What all rows of a study share; figures under other terms are not its own."""

    pictures: int
    teacher_steps: int
    protocol: str  # the first digits of its hash
    changes: str = ""  # of every recipe


def seedless(run: str) -> str:
    """A run's name without its seed."""
    return re.sub(r"-s\d+$", "", run)


def terms(size: Size) -> Terms:
    """The terms of a study of this size, by the protocol as it is now."""
    from tdd_cli.evaluation.protocol import choose
    from tdd_cli.evaluation.sets import open_set

    rules = choose(open_set("emoji"), size.n)
    return Terms(size.n, size.teacher_steps, rules.sha256[:12], " ".join(size.changes))


def load(path: Path, under: Terms) -> list[Row]:
    """The rows of a CSV file that were measured under these terms; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        try:
            return [_row(line) for line in lines if _terms(line) == under]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{lines.line_num} is not a row of the study: {error!r}",
                hint="Restore the file, or write the page elsewhere: --docs.",
            ) from None


def measured(result: Result, size: Size) -> list[Row]:
    """The rows of what `tdd eval` found."""
    return [_measured(entry, result, size) for entry in result.entries]


def joined(old: Sequence[Row], new: Iterable[Row]) -> list[Row]:
    """All rows in the order of their points, each once: what was measured first stays."""
    found = {row.point: row for row in new} | {row.point: row for row in old}
    return [found[point] for point in sorted(found)]


def as_csv(rows: Iterable[Row], under: Terms) -> str:
    """All rows as CSV, one line each."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow((*Point._fields, *FIGURES, *vars(under), "date", "processor", "torch"))
    for row in rows:
        figures = [f"{row.figures[name]:.4f}" if name in row.figures else "" for name in FIGURES]
        lines.writerow((*row.point, *figures, *vars(under).values(), row.date, row.processor, row.torch))
    return text.getvalue()


def _measured(entry: Entry, result: Result, size: Size) -> Row:
    figures = {name: entry.figures[name] for name in FIGURES if name in entry.figures}
    place = result.environments[next(iter(figures.values())).environment]
    values = {name: figure.value for name, figure in figures.items()}
    torch = place["versions"]["torch"]
    return Row(_point(entry, size), values, result.created[:10], place["device_name"], torch)


def _point(entry: Entry, size: Size) -> Point:
    found = {key: entry.sampling[key] for key in Point._fields if key in entry.sampling}
    trained = 0 if entry.baseline else spent(seedless(entry.label), size)
    return Point(run=TEACHER if entry.baseline else entry.label, trained=trained, **found)


def _row(line: dict[str, str]) -> Row:
    point = Point(
        line["run"], int(line["trained"]), int(line["steps"]), float(line["guidance"]), line["guidance_mode"],
        float(line["eta"]), line["schedule"], int(line["clip_x0"]),
    )  # fmt: skip
    figures = {name: float(line[name]) for name in FIGURES if line[name]}
    return Row(point, figures, line["date"], line["processor"], line["torch"])


def _terms(line: dict[str, str]) -> Terms:
    return Terms(int(line["pictures"]), int(line["teacher_steps"]), line["protocol"], line["changes"])
