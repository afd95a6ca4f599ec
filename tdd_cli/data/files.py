"""What sources of many files have in common: what is found in a file is remembered, on disk and in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tdd_cli.data.sources import Columns, Piece, fingerprint_of
from tdd_cli.files import write_atomic


class FileSource:
    """Files, here or behind addresses, each a unit; workers get it without what it keeps in memory."""

    def __init__(
        self, name: str, paths: Sequence[str], columns: Columns, *, folder: Path, room: float
    ) -> None:
        """folder: where copies and lists of contents are kept; room: bytes of copies of what is far away"""
        self.name, self.paths, self.columns = name, list(paths), columns
        self.folder, self.room = folder, room
        self.units = len(self.paths)
        self.rule: str = columns.choice
        self.left_out: dict[str, int] = {}
        self._begin()

    def fingerprint(self) -> str:
        """Of the local files' names, sizes and times; of the addresses of the others."""
        return fingerprint_of(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        """Start with nothing in memory."""
        self._pieces: dict[int, list[Piece]] = {}

    def _listed(self, key: str, look: Callable[[], list[Any]]) -> list[Any]:
        """What `look` finds in a file, kept as JSON under `key`: no file is looked through twice."""
        index = self.folder / "contents" / f"{key}.json"
        try:
            found: list[Any] = json.loads(index.read_text("utf-8"))
        except (OSError, ValueError):
            found = look()
            write_atomic(index, json.dumps(found))
        return found
