"""Where CPU time goes: a clock with named parts, and rounds in which the sides take turns."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils.data import Dataset

WHOLE, REST = "whole", "rest"


class Clock:
    """CPU seconds of this process since the last lap, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens within it belongs to `name`."""
        began = time.process_time()
        try:
            yield
        finally:
            self.spent[name] += time.process_time() - began

    def timed(self, name: str | Callable[[], str], call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time belonging to `name`."""

        def within(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name()):
                return call(*args, **kwargs)

        return within

    def lap(self, call: Callable[[], object]) -> Counter[str]:
        """The time of one call: its parts, the rest, and the whole."""
        self.spent.clear()
        with self.part(WHOLE):
            call()
        spent = Counter(self.spent)
        spent[REST] = 2 * spent[WHOLE] - spent.total()
        return spent


class Timed(Dataset[Any]):
    """A data set whose reading is timed."""

    def __init__(self, data: Dataset[Any], clock: Clock, name: str) -> None:
        self.read = clock.timed(name, data.__getitem__)

    def __getitem__(self, row: int) -> Any:
        return self.read(row)


Laps = Mapping[str, list[Counter[str]]]
"""CPU seconds of every part, by side, a lap for each round."""


def accounts(rounds: int, sides: Mapping[str, tuple[Clock, Callable[[], object]]]) -> Laps:
    """What every side spends in a round, in which each has one turn."""
    laps: dict[str, list[Counter[str]]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, (clock, step) in sides.items():
            laps[name].append(clock.lap(step))
    return {name: some[1:] for name, some in laps.items()}  # the first round warms up


def ratio(laps: Laps, one: str, other: str) -> float:
    """The median over rounds of what one side takes over what the other does in the same round."""
    return statistics.median(a[WHOLE] / b[WHOLE] for a, b in zip(laps[one], laps[other], strict=True))


def table(laps: Laps, rows: list[str]) -> Iterator[str]:
    """The parts of every side as lines of a Markdown table: median milliseconds."""
    found = {name: _medians(some) for name, some in laps.items()}
    yield f"| CPU ms | {' | '.join(found)} |"
    yield "|---" * (len(found) + 1) + "|"
    for row in [*rows, REST, WHOLE]:
        yield f"| {row} | {' | '.join(f'{parts.get(row, 0):.0f}' for parts in found.values())} |"


def _medians(laps: list[Counter[str]]) -> dict[str, float]:
    names = {name for lap in laps for name in lap}
    return {name: statistics.median(lap[name] for lap in laps) * 1e3 for name in names}
