"""Several processes that share one piece of work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from tdd_cli.errors import TddError, UsageError

PATIENCE = timedelta(hours=6)  # of processes that wait for another's previews, or its part of the work


def check_met(processes: int, environment: Mapping[str, str]) -> None:
    """UsageError where a launcher started several processes and this one knows of itself alone."""
    started = int(environment.get("WORLD_SIZE", "1"))
    if processes == 1 and started > 1:
        raise UsageError(
            f"this is one of {started} processes, and it has not found the others",
            hint="On a machine without a GPU: ACCELERATE_USE_CPU=true accelerate launch ...",
        )


@contextmanager
def together() -> Iterator[None]:
    """Within it, a broken connection to another process is a TddError that says whose fault it is not."""
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DistError) or "/gloo/" in str(error):  # gloo's own errors have no class
            raise TddError(
                "another process of this run has ended, or is out of reach",
                hint="Its own message, above or on its machine, says why. Start all of them again: what was "
                "saved is kept (training: tdd distill --resume auto).",
            ) from error
        raise
