"""Data sets on the hub, through `datasets`: the files they are made of, and its errors as two of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from tdd_cli.data.sources import LAYOUT
from tdd_cli.errors import DataError, MissingComponent, first_line

Found = TypeVar("Found")


def is_hub(source: str) -> bool:
    """Whether a data.source is a data set's id, OWNER/NAME or OWNER/NAME@REVISION."""
    name, _ = hub_name(source)
    return name.count("/") == 1 and "://" not in name and not name.startswith((".", "/", "~"))


def hub_name(source: str) -> tuple[str, str | None]:
    """(OWNER/NAME, the revision where one is given)."""
    name, _, revision = source.partition("@")
    return name, revision or None


def hub_files(source: str, split: str) -> list[str]:
    """The addresses of a split's files, commit included. DataError unless all are parquet, or all tars."""
    from datasets import load_dataset_builder

    name, revision = hub_name(source)
    builder = from_hub(source, partial(load_dataset_builder, name, revision=revision))
    splits: dict[str, list[str]] = dict(builder.config.data_files or {})
    if split not in splits:
        raise DataError(
            f"{source} has no split {split!r}; it has {', '.join(map(str, splits)) or 'none'}",
            hint="Set data.split to one of them. Parts of one, such as train[:10%], are not streamed.",
        )
    files = [str(file) for file in splits[split]]
    if not any(all(file.endswith(end) for file in files) for end in (".parquet", ".tar")):
        raise DataError(
            f"{source} cannot be streamed: it is made of other files than parquet or tar ({files[0]})",
            hint=f"The hub converts most sets: try {name}@refs/convert/parquet, or data.streaming=false.",
        )
    return files


def from_hub(source: str, ask: Callable[[], Found]) -> Found:
    """What `datasets` answers of a set on the hub, or in its cache where the hub does not answer.

    The hub is asked once whether it is there: the client alone would retry for half a minute.
    """
    from tdd_cli.families.hub import hub_answers

    if hub_answers():
        return asked(source, ask, absent="is no folder or file here, and the hub does not give it")
    try:
        with _offline():
            return asked(source, ask)
    except MissingComponent as error:
        raise MissingComponent(
            f"{source!r} is no folder or file here, nor in the hub's cache, and the hub does not answer",
            hint=error.hint,
        ) from None


def asked(source: str, ask: Callable[[], Found], *, absent: str = "cannot be reached") -> Found:
    """What `datasets` answers; MissingComponent where the hub does not, DataError for what cannot be read."""
    from datasets import disable_progress_bars
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        disable_progress_bars()
        return ask()
    except (DatasetNotFoundError, ConnectionError) as error:
        raise MissingComponent(
            f"{source!r} {absent} ({first_line(error)})",
            hint="Give a local folder or parquet file, or download it where the hub can be reached.",
        ) from None
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise DataError(f"{source} cannot be read: {first_line(cause)}", hint=LAYOUT) from None


@contextmanager
def _offline() -> Iterator[None]:
    """Have `datasets` and the hub's client ask nobody."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
