"""Where pictures and captions come from: a folder, a parquet file, a hub data set, or the bundled emoji."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, UnidentifiedImageError
from torch import Generator

from tdd_cli.errors import DataError, MissingComponent


class Source(Protocol):
    """Pictures with captions, by number."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """The picture, RGB, transparency laid on white."""

    def caption(self, index: int, generator: Generator) -> str:
        """A caption of it; sources with several draw one."""


@dataclass(frozen=True)
class TableSource:
    """Rows of a `datasets` table whose picture column is left encoded until a picture is asked for."""

    rows: Any  # datasets.Dataset with columns image ({"bytes", "path"}) and caption
    image_column: str
    caption_of: Callable[[dict[str, Any], Generator], str]
    name: str  # for messages

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        """The picture, RGB, transparency laid on white; DataError if it cannot be decoded."""
        cell = self.rows[index][self.image_column]
        encoded = cell if isinstance(cell, bytes) else cell["bytes"]
        where = f"{self.name}, row {index}"
        try:
            if encoded is None:
                where = str(cell["path"])
                encoded = Path(where).read_bytes()
            return on_white(Image.open(io.BytesIO(encoded)))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{where}: the picture cannot be read ({_first_line(error)})",
                hint="Remove it or replace it, then resume the run.",
            ) from None

    def caption(self, index: int, generator: Generator) -> str:
        """A caption of picture `index`."""
        return self.caption_of(self.rows[index], generator)


def open_source(
    source: str, *, split: str = "train", image_column: str = "image", caption_column: str = "text"
) -> Source:
    """The pictures that a recipe's data.source names. DataError if there are none, or a column is missing."""
    if source == "bundled:emoji":
        return _emoji()
    path = Path(source).expanduser()
    if path.is_dir():
        rows = _load(source, "imagefolder", data_dir=str(path), split=split)
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise DataError(f"there is no file {source}", hint="Check data.source.")
        rows = _load(source, "parquet", data_files=str(path), split=split)
    elif _is_hub_id(source):
        rows = _load(source, source, split=split)
    else:
        raise DataError(
            f"data.source {source!r} is neither a folder, a parquet file, nor a hub id owner/name",
            hint=f"Set it: --set data.source=FOLDER. {_LAYOUT}",
        )
    return _table(rows, source, image_column, caption_column)


def on_white(image: Image.Image) -> Image.Image:
    """RGB, what is transparent laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _emoji() -> Source:
    import pyarrow.parquet as pq
    from datasets import Dataset, table

    from tdd_cli.bundled.emoji import DATA
    from tdd_cli.bundled.emoji.captions import Row, caption

    def caption_of(row: dict[str, Any], generator: Generator) -> str:
        return caption(Row(row["name"], tuple(row["keywords"]), row["group"], row["style"]), generator)

    rows = Dataset(table.InMemoryTable(pq.read_table(DATA)))
    return TableSource(rows, "image", caption_of, "bundled:emoji")


def _load(source: str, *arguments: Any, split: str, **keywords: Any) -> Any:
    """`datasets.load_dataset` with its many errors as two of ours."""
    from datasets import Dataset, disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        disable_progress_bars()
        rows = load_dataset(*arguments, split=split, **keywords)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise MissingComponent(
            f"the data set {source!r} is not here, and the hub does not give it ({_first_line(error)})",
            hint="Give a local folder or parquet file, or download it where the hub can be reached.",
        ) from None
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise DataError(f"{source} cannot be read: {_first_line(cause)}", hint=_LAYOUT) from None
    assert isinstance(rows, Dataset)
    return rows


def _table(rows: Any, source: str, image_column: str, caption_column: str) -> Source:
    """The checked table: it has rows, and both columns."""
    from datasets import Image as ImageFeature

    if len(rows) == 0:
        raise DataError(f"{source} holds no pictures", hint=_LAYOUT)
    for key, column in (("image_column", image_column), ("caption_column", caption_column)):
        if column not in rows.column_names:
            raise DataError(
                f"{source} has no column {column!r}; it has {', '.join(rows.column_names)}",
                hint=f"Set data.{key} to one of them." if key == "image_column" else _LAYOUT,
            )
    if isinstance(rows.features[image_column], ImageFeature):
        rows = rows.cast_column(image_column, ImageFeature(decode=False))

    def caption_of(row: dict[str, Any], generator: Generator) -> str:
        text = row[caption_column]
        return str(text) if text is not None else ""

    return TableSource(rows, image_column, caption_of, source)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


_LAYOUT = (
    "A folder needs pictures and, beside them, a metadata.csv or metadata.jsonl with the columns file_name "
    "and text; a parquet file needs a picture and a caption column (data.image_column, data.caption_column)."
)
