"""Webdataset tars: 0001.jpg, 0001.txt, 0001.json, 0002.jpg, ... in files that are here or fetched."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tdd_cli.data import captions
from tdd_cli.data.captions import Labels
from tdd_cli.data.paths import expand
from tdd_cli.data.pictures import decode
from tdd_cli.data.rejects import Reject
from tdd_cli.data.sources import LAYOUT, Columns, Sample, fingerprint_of
from tdd_cli.errors import DataError, MissingComponent
from tdd_cli.files import replacing, write_atomic

PICTURES = ("jpg", "jpeg", "png", "webp")
Members = dict[str, tuple[int, int]]  # extension -> (offset, bytes) in the tar
TRUNCATED = "(truncated)"  # stands as the key of what a damaged tar's end would have held


def is_tar(source: str) -> bool:
    """Whether a data.source names tar files."""
    return source.partition("?")[0].endswith(".tar")


class TarSource:
    """Samples of tar files, each found by where it lies in its file; a damaged end costs one sample.

    The default column names take any picture, and the .txt or the "caption" of the .json; others are
    extensions ("cls.jpg"), or keys of the .json ("json.title").
    """

    def __init__(self, pattern: str, columns: Columns, *, folder: Path) -> None:
        self.name, self.columns, self.folder = pattern, columns, folder
        self.paths = expand(pattern)
        absent = next(
            (path for path in self.paths if not _is_remote(path) and not Path(path).is_file()), None
        )
        if absent or not self.paths:
            raise DataError(f"there is no file {absent or pattern}", hint="Check data.source.")
        self.units = len(self.paths)
        self.rule: str = columns.choice
        self.left_out: dict[str, int] = {}
        self._contents = lru_cache(maxsize=64)(self._look)

    def count(self, unit: int) -> int:
        """How many samples a tar has, its damaged end counted as one."""
        return len(self._contents(unit))

    def read(self, unit: int, index: int) -> Sample:
        """One sample; Reject where it cannot be used."""
        key, members = self._contents(unit)[index]
        where = f"{self.paths[unit]}: {key}"
        if key == TRUNCATED:
            raise Reject("truncated file", self.paths[unit])
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

    def fingerprint(self) -> str:
        """Of the local files' names, sizes and times; of the addresses of the others."""
        local = [Path(path) for path in self.paths if not _is_remote(path)]
        remote = [path for path in self.paths if _is_remote(path)]
        return hashlib.sha256("\n".join([fingerprint_of(local), *remote]).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_contents"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
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
            values = json.loads(self._bytes(unit, members["json"]))
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
        return fetch(path, self.folder / "fetched") if _is_remote(path) else Path(path)

    def _look(self, unit: int) -> list[tuple[str, Members]]:
        """What is in a tar; kept in a file, so that no tar is looked through twice."""
        path = self._local(unit)
        state = path.stat()
        key = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()
        kept = self.folder / "contents" / f"{key[:32]}.json"
        try:
            return [(name, members) for name, members in json.loads(kept.read_text("utf-8"))]
        except (OSError, ValueError):
            found = contents(path)
        write_atomic(kept, json.dumps(found))
        return found


def contents(path: Path) -> list[tuple[str, Members]]:
    """The samples of a tar in their order: (key, where each of its files lies). Nothing is unpacked."""
    found: dict[str, Members] = {}
    whole, damaged = path.stat().st_size, False
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = folder + slash + stem
                if member.offset_data + member.size > whole:
                    found.pop(key, None)
                    damaged = True
                    break
                found.setdefault(key, {})[extension.lower()] = (member.offset_data, member.size)
            damaged = damaged or 0 < whole - tar.offset < tarfile.BLOCKSIZE  # cut within a header
    except tarfile.TarError:
        damaged = True
    return [*found.items(), *([(TRUNCATED, {})] if damaged else [])]


def fetch(address: str, folder: Path) -> Path:
    """A local copy of a file behind an address, fetched once; hf:, s3: and others through `datasets`."""
    try:
        if not address.startswith(("http://", "https://")):
            return _by_datasets(address, folder)
        kept = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.tar"
        if not kept.is_file():
            with urlopen(address, timeout=60) as answer, replacing(kept) as beside, beside.open("wb") as file:
                shutil.copyfileobj(answer, file, 2**20)
        return kept
    except (OSError, ValueError, ImportError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise MissingComponent(
            f"{address} cannot be fetched ({text})",
            hint=f"Fetch it yourself, and give the local file. {LAYOUT}",
        ) from None


def _by_datasets(address: str, folder: Path) -> Path:
    from datasets import DownloadConfig, DownloadManager, disable_progress_bars

    disable_progress_bars()
    config = DownloadConfig(cache_dir=str(folder), max_retries=2)
    return Path(str(DownloadManager(download_config=config, record_checksums=False).download(address)))


def _is_remote(path: str) -> bool:
    return "://" in path
