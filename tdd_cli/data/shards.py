"""Webdataset tars: 0001.jpg, 0001.txt, 0001.json, 0002.jpg, ... in files that are here or fetched."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from tdd_cli.data import captions
from tdd_cli.data.captions import Labels
from tdd_cli.data.files import FileSource
from tdd_cli.data.pictures import decode
from tdd_cli.data.rejects import Reject
from tdd_cli.data.remote import fetch, identity, is_remote
from tdd_cli.data.rows import from_json
from tdd_cli.data.sources import Piece, Sample
from tdd_cli.data.tars import LOST, Members, contents

PICTURES = ("jpg", "jpeg", "png", "webp")
LISTS = 2  # of what is in a tar, as they are kept: those of another number are made again


def is_tar(source: str) -> bool:
    """Whether a data.source names tar files."""
    return source.partition("?")[0].endswith(".tar")


class TarSource(FileSource):
    """Samples of tar files, each found by where it lies in its file; a place of damage costs one sample.

    The default column names take any picture, and the .txt or the "caption" of the .json; others are
    extensions ("cls.jpg"), or keys of the .json ("json.title").
    """

    def pieces(self, unit: int) -> list[Piece]:
        """All of a tar, each place of damage counted as one sample."""
        if unit not in self._pieces:
            self._pieces[unit] = [Piece(len(self._contents(unit)))]
        return self._pieces[unit]

    def read(self, unit: int, index: int) -> Sample:
        """One sample; Reject where it cannot be used."""
        key, members = self._contents(unit)[index]
        where = f"{self.paths[unit]}: {key}"
        if key in LOST:
            raise Reject(LOST[key], self.paths[unit])
        values = self._json(unit, members, where)
        if not all(threshold.holds(values) for threshold in self.columns.where):
            raise Reject("filtered", where)
        labels = self._labels(unit, members, values, where)
        wanted = PICTURES if self.columns.image == "image" else (self.columns.image,)
        extension = next((one for one in wanted if one in members), None)
        if extension is None:
            raise Reject("no picture", where)
        encoded = self._bytes(unit, members[extension])
        return Sample(decode(encoded, where, min_size=self.columns.min_size), labels)

    def _begin(self) -> None:
        super()._begin()
        self._contents = lru_cache(maxsize=64)(self._look)

    def _labels(self, unit: int, members: Members, values: dict[str, Any], where: str) -> Labels:
        column = self.columns.caption
        if column.startswith("json."):
            cell = values.get(column.removeprefix("json."))
        else:
            extension = "txt" if column == "text" else column
            cell = self._bytes(unit, members[extension]) if extension in members else None
            if cell is None and column == "text":
                cell = values.get("caption")
        return {"captions": captions.texts(cell, where)}

    def _json(self, unit: int, members: Members, where: str) -> dict[str, Any]:
        """The sample's .json, {} where it has none."""
        if "json" not in members:
            return {}
        try:
            values = from_json(self._bytes(unit, members["json"]))
        except ValueError:
            raise Reject("unreadable caption", where) from None
        return values if isinstance(values, dict) else {}

    def _bytes(self, unit: int, place: tuple[int, int]) -> bytes:
        offset, size = place
        with self._local(unit).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _local(self, unit: int) -> Path:
        path = self.paths[unit]
        return fetch(path, self.folder / "fetched", room=self.room) if is_remote(path) else Path(path)

    def _look(self, unit: int) -> list[tuple[str, Members]]:
        """What is in a tar."""
        key = hashlib.sha256(f"{LISTS}\0{identity(self.paths[unit])}".encode()).hexdigest()[:32]
        found = self._listed(key, lambda: contents(self._local(unit)))
        return [(name, members) for name, members in found]
