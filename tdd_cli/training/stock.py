"""From a recipe's data section to a stream of batches and how to encode them; fills the cache on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset

from tdd_cli.data.batches import Batch, Pictures
from tdd_cli.data.filters import parse
from tdd_cli.data.pictures import shapes
from tdd_cli.data.prompts import read_prompts
from tdd_cli.data.sources import Columns, Source, count, open_source
from tdd_cli.data.store import Store, bytes_worded, cache_name, check_room
from tdd_cli.data.stored import Stored
from tdd_cli.families.base import Family
from tdd_cli.hashes import json_hash
from tdd_cli.recipe import Data, Recipe
from tdd_cli.training.encode import ENCODERS, Encode
from tdd_cli.training.origins import Origins, models_used, text_encoders
from tdd_cli.training.precision import precision
from tdd_cli.training.prepare import COND, Make, draw_latents, encode_pictures, fill

CACHE = Path("cache")
Show = Callable[[str, int, Iterator[int]], None]
"""(what is made, how many, those made at a time): draws the iterator to its end, showing how it goes."""


@dataclass(frozen=True)
class Stock:
    """What a run is trained on."""

    stream: Dataset[Batch]
    encode: Callable[[Family], Encode]
    made_of: Origins  # the data and the models
    left_out: dict[str, int]  # samples left out before training, by reason


@dataclass(frozen=True)
class Raw:
    """Pictures or prompts, opened and found usable before a model is loaded."""

    source: Source | None = None
    prompts: list[str] | None = None
    fingerprint: str = ""


def drain(what: str, total: int, made: Iterator[int]) -> None:
    """Draw an iterator to its end in silence."""
    for _ in made:
        pass


def open_raw(data: Data, seed: int) -> Raw:
    """What the recipe's data section names; DataError, within seconds, where nothing of it can be used."""
    if data.prompts is not None:
        prompts = read_prompts(data.prompts, column=data.caption_column)
        return Raw(prompts=prompts, fingerprint=json_hash(prompts))
    assert data.source is not None
    columns = Columns(
        image=data.image_column,
        caption=data.caption_column,
        split=data.split,
        choice=data.caption,
        min_size=data.min_size,
        where=parse(data.where),
    )
    source = open_source(
        data.source, columns, streaming=data.streaming, folder=CACHE, room=data.fetched_gb * 1e9
    )
    _pictures(source, data, seed)[0]
    return Raw(source=source, fingerprint=source.fingerprint())


def open_stock(
    raw: Raw,
    recipe: Recipe,
    family: Family,
    *,
    show: Show,
    process: int,
    processes: int,
    wait: Callable[[], None],
) -> Stock:
    """The stream of batches; with a cache on disk, after what is missing of it was made."""
    data = recipe.data
    encode, made_of = ENCODERS[data.cache], origins(raw, family)
    if data.cache in ("none", "memory"):
        assert raw.source is not None
        stream = _pictures(raw.source, data, recipe.train.seed)
        return Stock(stream, encode, made_of, raw.source.left_out)
    store = open_store(raw, recipe, family)
    makes = fill(store, maker(raw, recipe, family), process=process, processes=processes)
    parts, text = store.missing(), data.cache == "all"
    needed = sum(len(numbers) for _, numbers in parts) * sample_bytes(recipe, family, text=text)
    check_room(store.folder, needed)
    missing = sum(len(numbers) for part, numbers in parts if part % processes == process)
    if missing:
        verb = "drawing" if raw.prompts else "encoding"
        show(f"{verb} into {store.folder}, about {bytes_worded(needed)}", missing, makes)
    wait()
    contents = store.load()
    stored = Stored(
        contents,
        cond=[name for name in contents.names if name.startswith(COND)],
        rule=raw.source.rule if raw.source and not text else "first",
        flip=data.flip,
        batch=recipe.train.global_batch,
        seed=recipe.train.seed,
    )
    before = raw.source.left_out if raw.source else {}
    found = Counter(before) + Counter(contents.left_out) + Counter(filtered=_filtered(raw))
    return Stock(stored, encode, made_of, dict(found))


def open_store(raw: Raw, recipe: Recipe, family: Family) -> Store:
    """The cache that belongs to a recipe: what it is made from decides its folder and its key."""
    data, key = recipe.data, store_key(raw, recipe, family)
    folder = Path(data.cache_folder) if data.cache_folder else CACHE / cache_name(data.cache, key)
    return Store(folder, key, samples=samples_of(raw, data.per_prompt))


def samples_of(raw: Raw, per_prompt: int) -> int:
    """How many samples a cache is made from."""
    if raw.prompts is not None:
        return len(raw.prompts) * per_prompt
    assert raw.source is not None
    return sum(count(raw.source, unit) for unit in range(raw.source.units))


def sample_bytes(recipe: Recipe, family: Family, *, text: bool) -> int:
    """About how much room one sample takes in a cache on disk."""
    data = recipe.data
    numbers = torch.Size(family.latent_shape(data.resolution, data.resolution)).numel()
    latent = numbers * store_dtype(recipe).itemsize * (2 if data.flip else 1)
    cond = sum(value.nbytes for value in family.encode_prompts([""]).values()) if text else 0
    return latent + cond + 500  # labels, sizes, and names


def origins(raw: Raw, family: Family) -> Origins:
    """What a run is made from beside its recipe: the data, and all of the teacher."""
    data = "data.source" if raw.prompts is None else "data.prompts"
    parts = [family.parts.net, "vae", "scheduler", *text_encoders(family)]
    return {data: raw.fingerprint, **models_used(family, parts)}


def store_key(raw: Raw, recipe: Recipe, family: Family) -> Origins:
    """Everything that what is in the cache depends on."""
    data, texts = recipe.data, text_encoders(family)
    key: Origins = {
        "data.resolution": data.resolution,
        "data.cache": data.cache,
        "dtype": str(store_dtype(recipe)),
    }
    if raw.prompts is not None:
        made_by = ["data.teacher_steps", "data.per_prompt"]
        key |= {"data.prompts": raw.fingerprint, "train.seed": recipe.train.seed}
        key |= {path: getattr(data, path.partition(".")[2]) for path in made_by}
        key["guidance"] = teacher_guidance(recipe)
        used = [family.parts.net, "scheduler", *texts]
    else:
        paths = ("image_column", "caption_column", "min_size", "max_aspect", "flip", "caption")
        key |= {"data.source": raw.fingerprint, "data.where": list(data.where)}
        key |= {f"data.{path}": getattr(data, path) for path in paths}
        used = ["vae", *(texts if data.cache == "all" else [])]
    return key | models_used(family, used)


def maker(raw: Raw, recipe: Recipe, family: Family) -> Make:
    """What makes the samples of a cache."""
    data, text, dtype = recipe.data, recipe.data.cache == "all", store_dtype(recipe)
    batch = recipe.train.device_batch or recipe.train.global_batch
    if raw.prompts is not None:
        return partial(
            draw_latents,
            family,
            raw.prompts,
            per_prompt=data.per_prompt,
            size=(data.resolution, data.resolution),
            steps=data.teacher_steps,
            guidance=teacher_guidance(recipe),
            seed=recipe.train.seed,
            text=text,
            dtype=dtype,
            batch=batch,
        )
    assert raw.source is not None
    return partial(
        encode_pictures,
        family,
        raw.source,
        shapes=shapes(data.resolution, data.max_aspect),
        flip=data.flip,
        text=text,
        dtype=dtype,
        batch=batch,
        workers=data.workers,
    )


def teacher_guidance(recipe: Recipe) -> float:
    """The guidance scale at which the teacher draws latents of prompts."""
    given = recipe.data.teacher_guidance
    return recipe.teacher.guidance if given is None else given


def store_dtype(recipe: Recipe) -> torch.dtype:
    """What latents are kept in: as they are for float32 runs, in half the room for the others.

    float16 and not bfloat16: latents are small numbers, which it keeps to three decimals.
    """
    exact = precision(recipe.train.precision).frozen == torch.float32
    return torch.float32 if exact else torch.float16


def _pictures(source: Source, data: Data, seed: int) -> Pictures:
    return Pictures(source, resolution=data.resolution, flip=data.flip, seed=seed)


def _filtered(raw: Raw) -> int:
    """How many samples data.where left out while the source was looked through."""
    source = raw.source
    return (
        sum(piece.filtered for unit in range(source.units) for piece in source.pieces(unit)) if source else 0
    )
