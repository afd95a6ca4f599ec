"""What a long run shows: one live line on a terminal, a plain line now and then elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


class Meter:
    """A counter of steps with a loss and a rate; a context manager."""

    def __init__(self, what: str, total: int, *, done: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.what, self.total = what, total
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._began, self._first, self._shown = time.monotonic(), done, 0.0
        if self.console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self.console,
                redirect_stdout=sys.stdout.isatty(),  # or results meant for a file would be shown instead
            )
            self._task = self._live.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Meter:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, done: int, note: str) -> None:
        """`done` steps of the total are done; `note` says how it goes."""
        if self._live:
            self._live.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if done == self.total or now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            left = (now - self._began) / max(done - self._first, 1) * (self.total - done)
            words = (f"{self.what} {done}/{self.total}", note, f"{_clock(left)} left")
            self.say("  ".join(word for word in words if word))

    def say(self, text: str) -> None:
        """A line of its own, above the live one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
