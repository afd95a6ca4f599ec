"""Several files in one word: * and ? as the shell knows them, and braces, {000..127} or {a,b}."""

from __future__ import annotations

import re
from glob import glob, has_magic
from itertools import chain
from pathlib import Path, PurePath

from tdd_cli.errors import DataError

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]+)\}")
UNPACK = {
    ".gz": "gunzip", ".tgz": "gunzip", ".bz2": "bunzip2", ".tbz2": "bunzip2", ".xz": "unxz", ".txz": "unxz",
    ".zst": "unzstd", ".zip": "unzip", ".7z": "7z x", ".rar": "unrar x",
}  # fmt: skip
"""By how a file's name ends: what unpacks it."""


def expand(pattern: str) -> list[str]:
    """The paths (or addresses) a pattern means; those the file system is asked for sorted."""
    paths = _braces(pattern)
    return list(chain.from_iterable(sorted(glob(path)) if _is_glob(path) else [path] for path in paths))


def here(pattern: str) -> list[str]:
    """The files and addresses a pattern means; DataError where a file is not there, or there is none."""
    paths = [path if "://" in path else str(Path(path).expanduser()) for path in expand(pattern)]
    absent = next((path for path in paths if "://" not in path and not Path(path).is_file()), None)
    if absent or not paths:
        raise DataError(f"there is no file {absent or pattern}", hint="Check data.source.")
    return paths


def check_unpacked(source: str) -> None:
    """DataError where a data.source names compressed files."""
    suffix = PurePath(source.partition("?")[0]).suffix.lower()
    if suffix in UNPACK:
        raise DataError(
            f"data.source {source!r}: compressed tars and other packed files ({suffix}) are not read",
            hint=f"Unpack them: {UNPACK[suffix]} FILE. Then give the .tar files, or the folder.",
        )


def _braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [whole for word in _words(found[1]) for whole in _braces(before + word + after)]


def _words(inside: str) -> list[str]:
    """What stands in braces: 008..011 counts, keeping the number of digits; a,b lists."""
    ends = _RANGE.fullmatch(inside)
    if ends:
        return [f"{n:0{len(ends[1])}}" for n in range(int(ends[1]), int(ends[2]) + 1)]
    return inside.split(",")


def _is_glob(path: str) -> bool:
    return has_magic(path) and "://" not in path
