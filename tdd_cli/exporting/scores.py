"""What tdd eval measured, for the model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdd_cli.evaluation.table import Cell


def scores(path: Path) -> str:
    """The table of an eval.json in Markdown, and the protocol it follows; UsageError for another file."""
    from tdd_cli.evaluation.results import Result
    from tdd_cli.evaluation.table import rows
    from tdd_cli.evaluation.wording import SETTINGS, heading, settings_said, settings_shown

    result = Result.load(path)
    settings = [SETTINGS[name] for name in settings_shown(result)]
    head = ["", *settings, *(heading(name) for name in result.columns())]
    shown = [row for row in rows(result) if not row.apart]
    body = [[f"{row.label} {row.mark}".rstrip(), *row.settings, *map(_figure, row.cells)] for row in shown]
    known = result.protocol
    said = f"Protocol: {known['set']} {known['version']}, n = {known['n']}, {result.protocol_sha256[:12]}."
    table = "\n".join(_line(cells) for cells in [head, ["---"] * len(head), *body])
    return "\n\n".join(filter(None, (table, settings_said(result), said)))


def _figure(cell: Cell | None) -> str:
    return f"{cell.text} {cell.interval}".strip() if cell else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"
