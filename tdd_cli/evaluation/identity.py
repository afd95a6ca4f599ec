"""What files are, by their content: read once, then remembered by their size and time of change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tdd_cli.evaluation.cache import cache_folder
from tdd_cli.evaluation.protocol import text_hash
from tdd_cli.files import write_atomic
from tdd_cli.hashes import file_hash


def fingerprint(path: Path) -> str:
    """Of a file, or of all files in a folder, hidden ones left out: 64 hex digits."""
    if not path.is_dir():
        return contents_hash([path], path)
    found = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return contents_hash(sorted(found), path)


def contents_hash(files: Iterable[Path], root: Path) -> str:
    """Of the files' names under root and their contents, in their order: equal on every machine.

    The cache folder remembers it for as long as no file's size or time of change is another.
    """
    files = list(files)
    known = cache_folder() / "contents" / text_hash(map(_state, files))
    if known.is_file():
        return known.read_text("utf-8")
    found = text_hash(f"{file.relative_to(root).as_posix()} {file_hash(file)}" for file in files)
    write_atomic(known, found)
    return found


def _state(file: Path) -> str:
    state = file.stat()
    return f"{file.absolute()} {state.st_size} {state.st_mtime_ns}"
