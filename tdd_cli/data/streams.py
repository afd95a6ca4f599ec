"""Parquet files read where they are, here or behind addresses, one row group at a time, unconverted."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from tdd_cli.data import captions
from tdd_cli.data.captions import Labels
from tdd_cli.data.files import FileSource
from tdd_cli.data.pictures import decode, encoded
from tdd_cli.data.rejects import Reject
from tdd_cli.data.remote import identity, is_remote, kept, unreachable
from tdd_cli.data.sources import LAYOUT, Columns, Piece, Sample, check_columns
from tdd_cli.errors import DataError, first_line

BATCH = 64  # rows in memory at a time while a row group is copied


class ParquetSource(FileSource):
    """Rows of parquet files. A row group is a piece: when its turn comes, the columns wanted of the rows that
    pass data.where are copied to a file that all processes of a machine map into memory.

    What is in a file, by row group, is kept beside: a file is looked through once.
    """

    def __init__(
        self, name: str, paths: Sequence[str], columns: Columns, *, folder: Path, room: float
    ) -> None:
        """Raises DataError where no file can be read, or a column is missing.

        folder  where copies and lists of contents are kept; room: bytes of copies of what is far away
        """
        super().__init__(name, paths, columns, folder=folder, room=room)
        check_columns(name, columns, self._schema())

    def pieces(self, unit: int) -> list[Piece]:
        """The row groups of a file; one that cannot be read counts as one sample."""
        if unit not in self._pieces:
            self._pieces[unit] = [Piece(kept, rows - kept) for rows, kept in self._contents(unit)]
        return self._pieces[unit]

    def read(self, unit: int, index: int) -> Sample:
        """A row of a file, of those that pass; Reject where it cannot be used."""
        where = f"{self.paths[unit]}, picture {index}"
        starts = [0, *accumulate(piece.size for piece in self.pieces(unit))]
        group = bisect_right(starts, index) - 1
        rows, index = self._rows(unit, group), index - starts[group]
        if index >= len(rows):
            raise Reject("damaged file", self.paths[unit])
        row = captions.legible(rows.slice(index, 1).to_pylist, where)[0]
        labels: Labels = {"captions": captions.texts(row[self.columns.caption], where)}
        content, where = encoded(row[self.columns.image], where)
        return Sample(decode(content, where, min_size=self.columns.min_size), labels)

    def _begin(self) -> None:
        super()._begin()
        self._rows = lru_cache(maxsize=16)(self._mapped)

    def _schema(self) -> list[str]:
        """The columns of the first file that can be read."""
        problem = "it holds no files"
        for path in self.paths:
            try:
                with opened(path) as file:
                    return list(file.schema_arrow.names)
            except Damaged as damaged:
                problem = str(damaged)
        raise DataError(f"{self.name} cannot be read: {problem}", hint=LAYOUT)

    def _contents(self, unit: int) -> list[tuple[int, int]]:
        """(rows, those that pass data.where) of each row group of a file."""
        found = self._listed(self._key(unit), partial(self._look, unit))
        return [(rows, passing) for rows, passing in found]

    def _look(self, unit: int) -> list[tuple[int, int]]:
        try:
            with opened(self.paths[unit]) as file:
                rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            return [(count, self._passing(unit, group, count)) for group, count in enumerate(rows)]
        except Damaged:
            return [(1, 1)]

    def _passing(self, unit: int, group: int, rows: int) -> int:
        """How many of a row group's rows pass; its other columns are not read."""
        if not self.columns.where:
            return rows
        return sum(sum(self._mask(some)) for some in batches(self.paths[unit], group, self._scores()))

    def _scores(self) -> list[str]:
        return list(dict.fromkeys(threshold.column for threshold in self.columns.where))

    def _mask(self, rows: Any) -> list[bool]:
        scores = rows.select(self._scores()).to_pylist()
        return [all(threshold.holds(row) for threshold in self.columns.where) for row in scores]

    def _mapped(self, unit: int, group: int) -> Any:
        """The rows of a row group that pass, mapped from their copy."""
        import pyarrow as pa

        path = self.folder / "row-groups" / f"{self._key(unit)}-{group}.arrow"
        room = self.room if is_remote(self.paths[unit]) else 0
        while True:
            copy = kept(path, partial(self._copy, unit, group), room=room)
            try:
                return pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
            except FileNotFoundError:  # removed by another process just now
                continue

    def _copy(self, unit: int, group: int, to: Path) -> None:
        """Write the rows of a row group that pass to a file; where it is damaged, those before."""
        import pyarrow as pa

        wanted = (self.columns.image, self.columns.caption)
        names = list(dict.fromkeys([*wanted, *self._scores()]))
        with pa.OSFile(str(to), "wb") as sink:
            writer = None
            try:
                for rows in batches(self.paths[unit], group, names):
                    writer = writer or pa.ipc.new_file(sink, rows.schema)
                    writer.write(rows.filter(pa.array(self._mask(rows))) if self.columns.where else rows)
            except Damaged:
                pass
            (writer or pa.ipc.new_file(sink, pa.schema([]))).close()

    def _key(self, unit: int) -> str:
        """What a file's contents are known by: the file itself, and what is asked of its rows."""
        asked = json.dumps([str(threshold) for threshold in self.columns.where])
        names = f"{self.columns.image}\0{self.columns.caption}"
        text = f"{identity(self.paths[unit])}\0{asked}\0{names}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Damaged(Exception):
    """A file that is there and is not what it should be."""


def batches(path: str, group: int, names: Sequence[str]) -> Iterator[Any]:
    """Some columns of a row group, a few rows at a time."""
    with opened(path) as file:
        yield from file.iter_batches(BATCH, row_groups=[group], columns=list(names), use_threads=False)


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A parquet file, here or behind an address. Damaged, or MissingComponent where it cannot be reached."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remote = is_remote(path)
    try:
        if not remote:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                yield file
        else:
            from fsspec.core import url_to_fs

            system, place = url_to_fs(path)
            with system.open(place, "rb") as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
                yield file
    except pa.ArrowException as error:
        raise Damaged(first_line(error)) from None
    except Exception as error:  # file systems raise what their clients do
        if not remote:
            raise Damaged(first_line(error)) from None
        raise unreachable(path, error) from None
