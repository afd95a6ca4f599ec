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
from urllib.request import urlopen

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from tdd_cli.errors import MissingComponent
from tdd_cli.files import replacing

NEWEST = 16  # files that stay whatever the room: those in use, and those of the turn before
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


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
    try:
        if address.startswith(("http://", "https://")):
            with urlopen(address, timeout=60) as answer, to.open("wb") as file:
                shutil.copyfileobj(answer, file, 2**20)
        else:
            from fsspec.core import url_to_fs

            system, place = url_to_fs(address)
            system.get_file(place, str(to))
    except Exception as error:  # file systems raise what their clients do
        raise unreachable(address, error) from None
