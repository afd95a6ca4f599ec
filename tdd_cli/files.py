"""Writing files so that a reader, or an interrupted run, never meets a half-written one."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tdd_cli.errors import UsageError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`: all of it, or, if anything fails, nothing. Text is UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path) -> None:
    """UsageError where a folder cannot be written to, or made; nothing is made yet."""
    there = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not a folder" if not there.is_dir() else "cannot be written to"
        raise UsageError(f"{there} {what}", hint="Give another folder: --out.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A sibling of `path`, with its suffix, to write a file or a folder at; it becomes `path` on success.

    What was at `path` stays until then, and for good if the block raises; then the sibling is removed.
    """
    own = f"{platform.node()}-{os.getpid()}"  # containers that share a folder often have equal process ids
    partial = path.with_name(f".{path.stem}.partial-{own}{path.suffix}")
    _remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        for file in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
            _flush(file)
        if path.is_dir():  # a folder cannot be renamed over a folder that holds something
            _remove(path)
        partial.replace(path)
        _flush(path.parent)
    except BaseException:
        _remove(partial)
        raise


def _flush(path: Path) -> None:
    """Have the system write the file, or the folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
