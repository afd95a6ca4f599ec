"""Builds data.parquet and evaluation.csv from published emoji packages.

    mkdir packages && cd packages
    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 emojione@2.2.7 \
        emojibase-data@17.0.0 @lobehub/fluent-emoji-flat@1.1.0 @lobehub/fluent-emoji-3d@1.1.0
    pip install resvg-py        # draws the SVG of one style; nothing needs it afterwards
    python -m tdd_cli.bundled.emoji.build --packages packages
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tdd_cli.bundled.emoji import DATA, EVALUATION, IMAGE_SIZE, STYLES
from tdd_cli.bundled.emoji.things import LEFT_OUT, SUBGROUPS

MARGIN = 4  # white pixels around the longest side
MIN_STYLES = 4  # EmojiOne 2 ends with Unicode 9, so a thing may lack one style
EVALUATION_SIZE = 128


class Source(NamedTuple):
    """One style: where its pictures lie in which package, and under which licence."""

    archive: str
    folder: str
    suffix: str
    licence: str


SOURCES = {
    "noto": Source("emoji-datasource-google-16.0.0.tgz", "package/img/google/64/", ".png", "Apache-2.0"),
    "twemoji": Source("emoji-datasource-twitter-16.0.0.tgz", "package/img/twitter/64/", ".png", "CC-BY-4.0"),
    "fluent-flat": Source("lobehub-fluent-emoji-flat-1.1.0.tgz", "package/assets/", ".svg", "MIT"),
    "fluent-3d": Source("lobehub-fluent-emoji-3d-1.1.0.tgz", "package/assets/", ".webp", "MIT"),
    "emojione": Source("emojione-2.2.7.tgz", "package/assets/png_128x128/", ".png", "CC-BY-4.0"),
}


def code(hexcode: str) -> str:
    """A code point sequence in one spelling: packages disagree about case, padding, U+FE0F and U+200D."""
    parts = (part.zfill(4) for part in hexcode.lower().split("-"))
    return "-".join(part for part in parts if part not in ("fe0f", "200d"))


def things(archive: Path) -> dict[str, dict[str, Any]]:
    """code -> {name, keywords, group} of every thing to draw."""
    with tarfile.open(archive) as package:
        entries = _json(package, "package/en/data.json")
        subgroups = _json(package, "package/meta/groups.json")["subgroups"]
    group_of = {subgroup: group for group, members in SUBGROUPS.items() for subgroup in members}
    kept = {}
    for entry in entries:
        group = group_of.get(subgroups.get(str(entry.get("subgroup"))))
        name = entry["label"].replace("\u2019", "'")  # one kind of apostrophe
        if group and name not in LEFT_OUT:
            kept[code(entry["hexcode"])] = {"name": name, "keywords": entry.get("tags", []), "group": group}
    return kept


def _json(package: tarfile.TarFile, member: str) -> Any:
    file = package.extractfile(member)
    assert file is not None
    return json.load(file)


def pictures(archive: Path, source: Source, codes: set[str]) -> Iterator[tuple[str, bytes]]:
    """(code, file bytes) of the pictures wanted."""
    with tarfile.open(archive) as package:
        for member in package:
            path = Path(member.name)
            wanted = member.name.startswith(source.folder) and path.suffix == source.suffix
            if wanted and code(path.stem) in codes:
                file = package.extractfile(member)
                assert file is not None
                yield code(path.stem), file.read()


def rasterise(data: bytes, suffix: str) -> Image.Image:
    """Any of the packages' formats -> RGBA."""
    if suffix == ".svg":
        import resvg_py  # a tool of this script only

        data = resvg_py.svg_to_bytes(svg_string=data.decode(), width=256, height=256)
    return Image.open(io.BytesIO(data)).convert("RGBA")


def normalise(picture: Image.Image) -> Image.Image:
    """RGBA of any size -> RGB 64 x 64: cropped to its outline, centred on white, with a margin."""
    outline = picture.getchannel("A").point(lambda value: 255 if value > 16 else 0).getbbox()
    assert outline is not None
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    cropped = white.convert("RGB").crop(outline)
    factor = (IMAGE_SIZE - 2 * MARGIN) / max(cropped.size)
    width, height = (max(1, round(side * factor)) for side in cropped.size)
    canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    scaled = cropped.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(scaled, ((IMAGE_SIZE - width) // 2, (IMAGE_SIZE - height) // 2))
    return canvas


def encode(picture: Image.Image) -> bytes:
    """Lossless WebP or PNG, whichever is smaller."""
    files = []
    for options in (
        {"format": "WEBP", "lossless": True, "method": 6, "quality": 100},
        {"format": "PNG", "optimize": True},
    ):
        buffer = io.BytesIO()
        picture.save(buffer, **options)  # type: ignore[arg-type]
        files.append(buffer.getvalue())
    return min(files, key=len)


def rows(packages: Path) -> list[dict[str, Any]]:
    """One row a picture, sorted by thing (in Unicode's order) and style."""
    wanted = things(packages / "emojibase-data-17.0.0.tgz")
    drawn: dict[str, dict[str, bytes]] = {key: {} for key in wanted}
    for style, source in SOURCES.items():
        for key, data in pictures(packages / source.archive, source, set(wanted)):
            drawn[key][style] = encode(normalise(rasterise(data, source.suffix)))
    return [
        {"image": drawn[key][style], **wanted[key], "style": style}
        for key in wanted
        if len(drawn[key]) >= MIN_STYLES
        for style in STYLES
        if style in drawn[key]
    ]


SCHEMA = pa.schema(
    {
        "image": pa.binary(),
        "name": pa.string(),
        "keywords": pa.list_(pa.string()),
        "group": pa.string(),
        "style": pa.string(),
    }
)


def write_evaluation(names: list[str], path: Path) -> None:
    """The fixed split: some names drawn once and for all, the seed of each beside it."""
    chosen = sorted(random.Random(0).sample(names, EVALUATION_SIZE))
    path.write_text("name,seed\n" + "".join(f"{name},{seed}\n" for seed, name in enumerate(chosen)))


def main() -> None:
    """Read the packages, write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, required=True, help="folder of the .tgz files that npm pack wrote"
    )
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--evaluation", type=Path, default=EVALUATION)
    args = parser.parse_args()
    table = pa.Table.from_pylist(rows(args.packages), schema=SCHEMA)
    pq.write_table(table, args.out, compression="zstd")
    names = list(dict.fromkeys(table["name"].to_pylist()))
    write_evaluation(names, args.evaluation)
    size = args.out.stat().st_size / 2**20
    print(f"{args.out.name}: {table.num_rows} pictures of {len(names)} things, {size:.1f} MiB")


if __name__ == "__main__":
    main()
