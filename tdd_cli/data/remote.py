"""Files behind addresses, and copies on disk: made once for all processes, those used longest ago removed."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from tdd_cli.errors import MissingComponent, first_line
from tdd_cli.files import replacing

NEWEST = 16  # files that stay whatever the room: those in use, and those of the turn before
PAUSES = (2.0, 8.0)  # seconds before a second and a third attempt to fetch a file
TIMEOUT = 30.0  # seconds without a byte
FOR_GOOD = (FileNotFoundError, PermissionError, ImportError, ValueError)  # file systems' words for "never"
ABANDONED = 3600.0  # seconds after which a half-made file is that of a process that was killed


def is_remote(path: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in path


def identity(path: str) -> str:
    """What tells a file from an earlier one in its place: its size and time; of an address nothing can."""
    if is_remote(path):
        return path
    state = Path(path).stat()
    return f"{Path(path).resolve()}\0{state.st_size}\0{state.st_mtime_ns}"


def fetch(address: str, folder: Path, *, room: float) -> Path:
    """A local copy of a file behind an address: http(s), or what fsspec knows (hf, s3, gs, ...).

    room  bytes that copies may take; MissingComponent where it cannot be had
    """
    name = hashlib.sha256(address.encode()).hexdigest()[:32] + Path(address.partition("?")[0]).suffix
    return kept(folder / name, partial(_download, address), room=room)


def unreachable(address: str, error: Exception) -> MissingComponent:
    """What is said of an address that does not answer as it should."""
    return MissingComponent(
        f"{address} cannot be fetched ({first_line(error)})",
        hint="Go on when it can: tdd distill --resume auto. Or fetch it yourself, and give the local file.",
    )


def kept(path: Path, make: Callable[[Path], None], *, room: float) -> Path:
    """The file at `path`, made by `make(beside)` where it is not there; processes that want it too wait.

    room  bytes that the files of this suffix in its folder may take; NEWEST of them stay in any case
    """
    while not _used(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        locks = path.parent / ".locks"
        locks.mkdir(exist_ok=True)
        with WeakFileLock(locks / f"{zlib.crc32(path.name.encode()) % 64:02d}"):
            if not path.is_file():
                with replacing(path) as beside:
                    make(beside)
                remove_oldest(path.parent, f"*{path.suffix}", room=room)
    return path


def remove_oldest(folder: Path, pattern: str, *, room: float) -> None:
    """Remove the files used longest ago until the others fit into `room` bytes, or NEWEST are left."""
    now, found = time.time(), []
    for path in folder.glob(pattern):
        with suppress(OSError):  # removed by another process meanwhile
            state = path.stat()
            if not path.name.startswith("."):
                found.append((state.st_mtime_ns, state.st_size, path))
            elif now - state.st_mtime > ABANDONED:
                path.unlink()
    found.sort()
    size = sum(one for _, one, _ in found)
    for _, one, path in found[:-NEWEST]:
        if size <= room:
            break
        with suppress(OSError):  # in use, where that is a hindrance
            path.unlink()
        size -= one


def _used(path: Path) -> bool:
    """Mark a file as just used; whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _download(address: str, to: Path) -> None:
    """Fetch a file, again after a pause where that may help; MissingComponent where it cannot be had."""
    for pause in (*PAUSES, None):
        try:
            return _fetch(address, to)
        except Exception as error:  # file systems raise what their clients do
            if pause is None or not _passes(error):
                raise unreachable(address, error) from None
            time.sleep(pause)


def _fetch(address: str, to: Path) -> None:
    """Fetch a file once; OSError where less of it comes than was said."""
    if not address.startswith(("http://", "https://")):
        from fsspec.core import url_to_fs

        system, place = url_to_fs(address)
        system.get_file(place, str(to))
        return
    with urlopen(address, timeout=TIMEOUT) as answer, to.open("wb") as file:
        shutil.copyfileobj(answer, file, 2**20)
        said, came = answer.headers.get("Content-Length"), file.tell()
    if said and int(said) != came:
        raise OSError(f"cut short: {came:,} of {int(said):,} bytes came")


def _passes(error: Exception) -> bool:
    """Whether an error may not come again: a server in trouble, a transfer cut short, a timeout."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return not isinstance(error, FOR_GOOD)
