"""Results as rows of cells, for the terminal, the report and the model card: what is best, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tdd_cli.evaluation.collect import BEST_PSNR
from tdd_cli.evaluation.metrics import COLUMNS, Figure
from tdd_cli.evaluation.results import Entry, Result, baseline_of, best
from tdd_cli.evaluation.wording import marks, number, setting, settings_shown, subject_key

CAPS = {"psnr": BEST_PSNR}  # figure -> its value for equal pictures, which stands for infinity
TIMED = ("seconds", "per_second", "memory")  # what another machine has otherwise
EQUAL = "equal"  # what is shown instead


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
    mark: str = ""  # tells subjects of one label apart
    again: bool = False  # the row before is of the same subject
    apart: str = ""  # how it was measured otherwise than the others


def rows(result: Result) -> list[Row]:
    """Every entry, the baselines first and each subject's together, by steps and guidance."""
    columns, settings = result.columns(), settings_shown(result)
    ours = [entry for entry in result.entries if not entry.baseline and not entry.apart]
    tops = {name: best(name, ours) if _choice(name, ours) else None for name in columns}
    mark, found = marks(result.entries), list[Row]()
    before = None
    for entry in ordered(result.entries):
        key = (entry.baseline, subject_key(entry))
        found.append(
            Row(
                entry.label,
                entry.baseline,
                [setting(name, entry.sampling.get(name)) for name in settings],
                [_cell(name, entry, result.entries, tops[name]) for name in columns],
                entry.n,
                entry.unreadable,
                mark[subject_key(entry)],
                key == before,
                entry.apart,
            )
        )
        before = key
    return found


def _choice(name: str, entries: Sequence[Entry]) -> bool:
    """Whether entries differ in a figure, else all would be the best; and were timed on one machine."""
    found = [entry.figures[name] for entry in entries if name in entry.figures]
    timed_alike = name not in TIMED or len({figure.environment for figure in found}) == 1
    return len({figure.value for figure in found}) > 1 and timed_alike


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """The baselines first; a subject's entries together, by steps and guidance; else as they came."""
    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        first.setdefault(subject_key(entry), i)

    def place(entry: Entry) -> tuple[bool, int, int, tuple[float, ...]]:
        guidance = entry.sampling.get("guidance") or 0.0
        scales = tuple(guidance) if isinstance(guidance, (list, tuple)) else (guidance,)
        return not entry.baseline, first[subject_key(entry)], entry.sampling.get("steps") or 0, scales

    return sorted(entries, key=place)


def is_capped(name: str, figure: Figure) -> bool:
    """Whether a figure says that the pictures are equal, which no scale holds."""
    return name in CAPS and figure.value >= CAPS[name]


def _cell(name: str, entry: Entry, entries: Sequence[Entry], top: float | None) -> Cell | None:
    figure = entry.figures.get(name)
    if figure is None:
        return None
    column = COLUMNS[name]
    is_best = figure.value == top and not entry.baseline and not entry.apart
    if is_capped(name, figure):
        return Cell(EQUAL, best=is_best)
    half = half_width(figure)
    base = baseline_of(entry, entries)
    before = base.figures.get(name) if base else None
    return Cell(
        number(figure.value, column.digits),
        "" if half is None else f"±{number(half, column.digits)}",
        _change(name, figure, before),
        is_best,
    )


def _change(name: str, figure: Figure, before: Figure | None) -> str:
    """By how much it differs from the baseline's; nothing for equal pictures, and times of two machines."""
    if before is None or is_capped(name, before):
        return ""
    if name in TIMED and figure.environment != before.environment:
        return ""
    column, change = COLUMNS[name], figure.value - before.value
    if not column.ratio:
        return f"{change:+.{column.digits}f}"
    percent = round(100 * change / before.value) if before.value else None
    return "" if percent is None else f"{percent:+d}%" if percent else "0%"


def half_width(figure: Figure) -> float | None:
    """Half of a figure's interval."""
    return None if figure.low is None or figure.high is None else (figure.high - figure.low) / 2
