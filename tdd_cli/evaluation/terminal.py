"""The table on a terminal: no number is broken, however narrow it is."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdd_cli.evaluation.results import Result
from tdd_cli.evaluation.table import Cell, Row, rows
from tdd_cli.evaluation.wording import OTHERWISE, SETTINGS, heading, settings_said, settings_shown

GAP = 2  # blanks between columns
NARROWEST_LABEL = 16  # characters a label keeps however narrow the terminal


def show(result: Result, console: Console) -> None:
    """Print the table; the best figures in bold, changes against the baseline beside them.

    Where it is wider than the console, its figures are spread over several tables, so that none is broken.
    """
    shown, columns = rows(result), result.columns()

    room = max((_label(row).cell_len for row in shown), default=1)

    def table(names: Sequence[str]) -> Table:
        return _table(result, shown, [columns.index(name) for name in names], room)

    def fits(names: Sequence[str]) -> bool:
        return _width(table(names), console) <= console.width

    if not fits(columns):
        room = min(room, max(NARROWEST_LABEL, console.width // 3))
    for i, names in enumerate(_groups(columns, fits)):
        if i:
            console.print()
        found = table(names)
        found.width = max(_width(found, console), 1)
        console.print(found, crop=False, no_wrap=True)
    said = settings_said(result)
    if said:
        console.print(Text(said, "dim"))


def _groups(names: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> list[list[str]]:
    """The names in as few groups as fit, in their order; one name that does not fit stands alone."""
    groups: list[list[str]] = [[]]
    for name in names:
        if groups[-1] and not fits([*groups[-1], name]):
            groups.append([])
        groups[-1].append(name)
    return groups


def _table(result: Result, shown: Sequence[Row], columns: Sequence[int], room: int) -> Table:
    """Labels, in `room` characters, and settings with some of the figures; only labels are ever wrapped."""
    names = result.columns()
    figures = {i: _aligned([row.cells[i] for row in shown]) for i in columns}
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", width=room, overflow="fold")
    for name in settings_shown(result):
        table.add_column(_wrapped(SETTINGS[name]), justify="right", no_wrap=True)
    for i in columns:
        below = max(cell_len(text.plain) for text in figures[i])
        table.add_column(_wrapped(heading(names[i]), below), justify="right", no_wrap=True)
    for j, row in enumerate(shown):
        cells = (column[j] for column in figures.values())
        table.add_row(_label(row, room), *map(Text, row.settings), *cells)
    return table


def _width(table: Table, console: Console) -> int:
    """What a table takes when nothing of it is squeezed, characters."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _label(row: Row, room: int | None = None) -> Text:
    """The label with all that is said of the row; shortened to `room` characters where it stands above."""
    label, more = Text(row.label), Text()
    more.append(f" {row.mark}" if row.mark else "", "dim")
    more.append(" (baseline)" if row.baseline else "")
    more.append(f" [{row.unreadable} unreadable]" if row.unreadable else "")
    more.append(f" {OTHERWISE}" if row.apart else "")
    if row.again and room is not None:
        label.truncate(max(room - more.cell_len, NARROWEST_LABEL // 2), overflow="ellipsis")
    return label + more


def _wrapped(title: str, width: int = 1) -> str:
    """A title on lines as wide as what is below it, or as its longest word; arrows stay at the last word."""
    glued = "\u00a0".join(title.rsplit(" ", 1)) if title[-1] in "↓↑" else title
    longest = max(map(cell_len, glued.split(" ")))
    lines = textwrap.wrap(glued, max(width, longest), break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _aligned(cells: Sequence[Cell | None]) -> list[Text]:
    """A column's cells: values under values, intervals under intervals, changes under changes."""
    known = [cell for cell in cells if cell]
    values = max((cell_len(cell.text) for cell in known), default=1)
    intervals = max((cell_len(cell.interval) for cell in known), default=0)
    changes = max((cell_len(cell.change) for cell in known), default=0)
    found = []
    for cell in cells:
        value, interval, change = (cell.text, cell.interval, cell.change) if cell else ("-", "", "")
        text = Text(value.rjust(values), "bold" if cell and cell.best else "" if cell else "dim")
        text.append(" " + interval.rjust(intervals) if intervals else "", "dim")
        text.append(" " + change.rjust(changes) if changes else "", "cyan")
        found.append(text)
    return found
