"""Results as a table, for the terminal and the report: its columns, its cells, and what is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdd_cli.evaluation.metrics import COLUMNS, Figure
from tdd_cli.evaluation.results import Entry, Result, baseline_of, best

SETTINGS = {  # of Sampling: what a column is called; shown are steps, and those that differ between entries
    "steps": "steps",
    "guidance": "guidance",
    "eta": "eta",
    "schedule": "schedule",
    "clip_x0": "clip x0",
    "guidance_mode": "guidance mode",
    "grid": "grid",
}


@dataclass(frozen=True)
class Cell:
    """One figure as shown."""

    text: str  # the value
    interval: str = ""  # half of its 95 % interval
    change: str = ""  # against the baseline
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One entry as shown."""

    label: str
    baseline: bool
    settings: list[str]
    cells: list[Cell | None]
    n: int
    unreadable: int


def settings_shown(result: Result) -> list[str]:
    """The sampling settings worth a column."""
    drawn = [entry.sampling for entry in result.entries if entry.sampling]
    return [
        name
        for name in SETTINGS
        if drawn and (name == "steps" or len({str(each.get(name)) for each in drawn}) > 1)
    ]


def rows(result: Result) -> list[Row]:
    """Every entry, the baselines first."""
    columns, settings = result.columns(), settings_shown(result)
    ours = [entry for entry in result.entries if not entry.baseline]
    tops = {name: best(name, ours) for name in columns}
    ordered = sorted(result.entries, key=lambda entry: not entry.baseline)
    return [
        Row(
            entry.label,
            entry.baseline,
            [plain(entry.sampling.get(name)) for name in settings],
            [_cell(name, entry, result.entries, tops[name]) for name in columns],
            entry.n,
            entry.unreadable,
        )
        for entry in ordered
    ]


def show(result: Result, console: Console) -> None:
    """Print the table; the best figures in bold, changes against the baseline beside them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for name in settings_shown(result):
        table.add_column(SETTINGS[name], justify="right")
    for name in result.columns():
        table.add_column(heading(name), justify="right")
    for row in rows(result):
        label = row.label + (" (baseline)" if row.baseline else "")
        label += f" [{row.unreadable} unreadable]" if row.unreadable else ""
        table.add_row(Text(label), *row.settings, *(_rich(cell) for cell in row.cells))
    console.print(table)


def heading(name: str) -> str:
    """A figure's title, with the direction that is better."""
    arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[COLUMNS[name].better]
    return COLUMNS[name].title + arrow


def number(value: float, digits: int) -> str:
    """A value with `digits` after the point, more where that would leave nothing of it."""
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10**-digits else f"{value:.2g}"


def plain(value: Any) -> str:
    """A setting's value; nothing for a subject that has none."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ",".join(plain(each) for each in value)
    return "" if value is None else str(value)


def _cell(name: str, entry: Entry, entries: Sequence[Entry], top: float | None) -> Cell | None:
    figure = entry.figures.get(name)
    if figure is None:
        return None
    column = COLUMNS[name]
    half = half_width(figure)
    base = baseline_of(entry, entries)
    before = base.figures.get(name) if base else None
    change = f"{(figure.value / before.value - 1):+.0%}" if before and before.value else ""
    return Cell(
        number(figure.value, column.digits),
        "" if half is None else f"±{number(half, column.digits)}",
        change,
        not entry.baseline and figure.value == top,
    )


def half_width(figure: Figure) -> float | None:
    """Half of a figure's interval."""
    return None if figure.low is None or figure.high is None else (figure.high - figure.low) / 2


def _rich(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-", "dim")
    text = Text(cell.text, "bold" if cell.best else "")
    text.append(f" {cell.interval}" if cell.interval else "", "dim")
    text.append(f" {cell.change}" if cell.change else "", "cyan")
    return text
