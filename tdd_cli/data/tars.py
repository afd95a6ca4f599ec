"""What is in a tar, also in a damaged one: behind the damage it is read on from the next header."""

from __future__ import annotations

import tarfile
from functools import partial
from pathlib import Path
from tarfile import BLOCKSIZE

Members = dict[str, tuple[int, int]]
"""The files of a sample: extension -> (offset, bytes) in the tar."""

TRUNCATED, DAMAGED = "(truncated)", "(damaged)"
LOST = {TRUNCATED: "truncated file", DAMAGED: "damaged file"}
"""What stands as the key of samples that cannot be found -> why, of REASONS."""

CHUNK = 2**20  # bytes read at a time; whole blocks
MARK = 257  # where in a header the word "ustar" stands


def contents(path: Path) -> list[tuple[str, Members]]:
    """The samples of a tar in their order: (key, where each of its files lies). Nothing is unpacked.

    Then a key of LOST for each place where something is missing, which stands for what was there.
    """
    found: dict[str, Members] = {}
    whole, lost = path.stat().st_size, []
    with _Tar(path, "r") as tar:
        for member in iter(tar.next, None):
            if not member.isfile():
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key = folder + slash + stem
            if not 0 <= member.size <= whole - member.offset_data:
                found.pop(key, None)
                lost = [TRUNCATED]
                break
            found.setdefault(key, {})[extension.lower()] = (member.offset_data, member.size)
        else:
            if whole - tar.offset < BLOCKSIZE:  # without the zeros in which a tar ends
                lost = [TRUNCATED]
            elif not _all_zeros(path, tar.offset):
                lost = [DAMAGED]
        lost += [DAMAGED] * tar.damaged
    return [*found.items(), *((key, {}) for key in lost)]


class _Tar(tarfile.TarFile):
    """A tar that is read on behind damage; `damaged` counts the places."""

    damaged = 0

    def next(self) -> tarfile.TarInfo | None:
        """The next member that can be read; None where no header follows, and `offset` is then the end."""
        end, member = self.offset, self._member()
        while member is None:
            place = self._header_behind(self.offset)
            if place is None:
                self.offset = end
                return None
            self.offset = place
            member = self._member()
            self.damaged += member is not None
        return member

    def _member(self) -> tarfile.TarInfo | None:
        """The member whose header stands at `offset`; None where there is none, or it cannot be read."""
        try:
            return super().next()
        except (tarfile.TarError, ValueError):
            return None

    def _header_behind(self, place: int) -> int | None:
        """Where the next block begins that looks like a header, behind the one at `place`."""
        start = place + BLOCKSIZE
        self.fileobj.seek(start)
        while chunk := self.fileobj.read(CHUNK):
            for at in range(0, len(chunk), BLOCKSIZE):
                if chunk.startswith(b"ustar", at + MARK):
                    return start + at
            start += len(chunk)
        return None


def _all_zeros(path: Path, place: int) -> bool:
    """Whether a file holds nothing else from a place on."""
    with path.open("rb") as file:
        file.seek(place)
        return not any(chunk.strip(b"\0") for chunk in iter(partial(file.read, CHUNK), b""))
