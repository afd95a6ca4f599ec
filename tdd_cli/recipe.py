"""A recipe: one complete, typed description of a distillation run; every mistake is reported with its line.

The models below are the schema and its documentation: `tdd recipes keys` prints their descriptions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tdd_cli import yaml_lines
from tdd_cli.data.filters import parse as parse_thresholds
from tdd_cli.errors import RecipeError
from tdd_cli.recipe_keys import Key, did_you_mean, keys_of, nearest
from tdd_cli.shipped import recipe_folder, recipe_names
from tdd_cli.yaml_lines import Where

DEFAULT_RECIPE = "emoji-4to8"
TRAINING_TIMESTEPS = 1000
_MAX_BYTES = 1_000_000  # far beyond any recipe: whoever gives a larger file gave the wrong one


class Section(BaseModel):
    """Frozen, strictly typed, unknown keys refused, no nan or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(Section):
    """The teacher, which is also the student's starting point."""

    family: Literal["sd15", "sdxl"] = Field(description="the architecture")
    path: str = Field(
        min_length=1, description="a hub id, a diffusers folder, a .safetensors file, or bundled:emoji"
    )
    config: str | None = Field(
        default=None,
        min_length=1,
        description="for a single file: the folder with the pipeline's configuration (null: from the hub)",
    )
    loras: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="adapters that make the teacher, FILE or FILE:SCALE, multiplied into the model",
    )

    @property
    def styles(self) -> tuple[tuple[str, float], ...]:
        """(file, strength) of each of the teacher's adapters."""
        found = [re.fullmatch(r"(?P<file>.+?)(:(?P<scale>-?\d*\.?\d+))?", text) for text in self.loras]
        return tuple((one["file"], float(one["scale"] or 1)) for one in found if one)


class Data(Section):
    """The pictures and captions to distil on."""

    source: str | None = Field(
        default=None,
        min_length=1,
        description="bundled:emoji, a folder, parquet files, webdataset tars (path, *, {000..127}, address), "
        "or a hub data set's id (null: prompts)",
    )
    prompts: str | None = Field(
        default=None,
        min_length=1,
        description="in place of source: a file of prompts (one a line, or the caption_column of a .csv or "
        ".parquet), of which the teacher makes the latents; bundled:emoji has its data's captions",
    )
    split: str = Field(default="train", min_length=1, description="the split to read")
    image_column: str = Field(default="image", min_length=1, description="the column that holds the pictures")
    caption_column: str = Field(
        default="text", min_length=1, description="the column that holds the captions, one or a list"
    )
    caption: Literal["random", "first"] = Field(
        default="random", description="which of several captions: one drawn each time, or the first"
    )
    min_size: int = Field(default=0, ge=0, description="leave out pictures with a shorter side, pixels")
    where: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description='leave out pictures that fail one of these, such as "aesthetic > 5.5"'
    )
    resolution: int = Field(ge=8, multiple_of=8, description="side of the training pictures, pixels")
    max_aspect: float = Field(
        default=1.0,
        ge=1,
        le=8,
        description="longest by shortest side of the crops: above 1 each picture is cut to the nearest of "
        "several shapes of about resolution squared pixels (needs cache latents or all)",
    )
    flip: bool = Field(default=False, description="mirror half of the pictures")
    cache: Literal["none", "memory", "latents", "all"] = Field(
        default="none",
        description="memory: encode each picture once and keep its latent (256 kB at 1024 pixels); latents: "
        "keep them on disk, made before training; all: text embeddings too, of one caption a picture, and no "
        "encoder in memory",
    )
    cache_folder: str | None = Field(
        default=None,
        min_length=1,
        description="where the cache on disk is (null: under cache/, by a hash of what it is made from)",
    )
    teacher_steps: int = Field(
        default=25, ge=1, le=250, description="with prompts: steps in which the teacher makes a latent"
    )
    teacher_guidance: float | None = Field(
        default=None, ge=1, le=100, description="with prompts: its guidance scale (null: teacher.guidance)"
    )
    per_prompt: int = Field(default=1, ge=1, description="with prompts: latents made of each")
    workers: int = Field(
        default=0, ge=0, le=256, description="processes that decode pictures ahead (0: none)"
    )


class TddTarget(Section):
    """Near stops of the k_min..k_max-step samplers (TDD, the method of this package)."""

    rule: Literal["tdd"] = Field(description="near stops of k_min..k_max-step samplers")
    k_min: int = Field(default=4, ge=1, le=1000, description="fewest sampling steps trained for")
    k_max: int = Field(default=8, ge=1, le=1000, description="most sampling steps trained for")
    reach: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="how far below the nearest stop a target may lie, timesteps (null: as far as needed)",
    )
    eta: float = Field(default=0.3, ge=0, le=1, description="share by which a target is lowered at most")


class PcmTarget(Section):
    """The next edge of a few fixed phases (PCM)."""

    rule: Literal["pcm"] = Field(description="the next edge of fixed phases")
    phases: int = Field(default=4, ge=1, le=1000, description="phases, each the length of one sampling step")


class LcmTarget(Section):
    """Always the data (LCM)."""

    rule: Literal["lcm"] = Field(description="always timestep 0")


class CtmTarget(Section):
    """Any grid point below (CTM; TCD in latent space)."""

    rule: Literal["ctm"] = Field(description="any grid point below")


class Teacher(Section):
    """How the teacher steps."""

    grid: int = Field(default=250, ge=2, le=1000, description="points of its solver grid; must divide 1000")
    guidance: float = Field(
        default=4.5,
        ge=1,
        le=100,
        description="guidance scale the student learns, as in diffusers, 1 = off (the paper's w is 1 less)",
    )


class LoraStudent(Section):
    """A low-rank adapter on the teacher."""

    kind: Literal["lora"] = Field(description="a low-rank adapter on the teacher")
    rank: int = Field(default=64, ge=1, le=1024, description="rank of the adapter")
    alpha: float | None = Field(
        default=None, gt=0, description="its strength is alpha / rank (null: rank, strength 1)"
    )
    merge: bool = Field(
        default=False,
        description="train it added to the weights: faster for small networks, more memory for large ones",
    )


class FullStudent(Section):
    """All weights, beside a frozen copy of the teacher."""

    kind: Literal["full"] = Field(description="all weights, beside a frozen copy of the teacher")


class PseudoHuber(Section):
    """mean(sqrt(d^2 + c^2) - c)."""

    kind: Literal["pseudo_huber"] = Field(description="mean(sqrt(d^2 + c^2) - c)")
    c: float = Field(
        default=0.001, gt=0, description="differences below c count squared, above it linearly; latent units"
    )


class L2(Section):
    """mean(d^2)."""

    kind: Literal["l2"] = Field(description="mean(d^2)")


class Train(Section):
    """The optimisation (AdamW)."""

    steps: int = Field(ge=1, description="optimizer steps")
    global_batch: int = Field(ge=1, description="samples per optimizer step, over all devices")
    device_batch: int | None = Field(
        default=None,
        ge=1,
        description="samples in one forward pass on one device (null: global_batch / processes)",
    )
    lr: float = Field(gt=0, lt=1, description="learning rate")
    warmup: int = Field(default=0, ge=0, description="steps over which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="the learning rate after the warm-up"
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(
        default=1.0, gt=0, description="largest gradient norm; longer gradients are scaled down"
    )
    max_bad_steps: int = Field(
        default=20,
        ge=1,
        description="updates skipped in a row, as loss or gradient are not finite, that end the run",
    )
    drop_text: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of samples with the empty prompt, unguided; keeps guidance tunable",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        default="fp32",
        description="arithmetic of the networks; auto: bf16 where the hardware is quick in it, else fp32",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about 30 % more time"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of data order, noise and initial weights")


class Checkpoint(Section):
    """What is saved while training."""

    every: int = Field(ge=1, description="optimizer steps between checkpoints")
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept")
    keep_every: int = Field(
        default=0, ge=0, description="checkpoints of every so many steps are kept for good (0: none)"
    )


class Preview(Section):
    """Pictures drawn while training."""

    every: int = Field(ge=0, description="optimizer steps between previews (0: only at the end)")
    prompts: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="one row of pictures each (an empty list: no previews)"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the first prompt's noise")


class Sample(Section):
    """How the student is best sampled; written to the run's inference.json."""

    steps: int = Field(default=4, ge=1, le=1000, description="sampling steps")
    guidance: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="guidance scale on top of the distilled one, 1 = off and half the network calls",
    )
    eta: float = Field(
        default=0.0, ge=0, le=1, description="share by which a step undershoots before noise is added"
    )
    schedule: Literal["equal", "early"] = Field(
        default="equal", description="equal steps, or the extra ones where the noise is"
    )
    clip_x0: int = Field(
        default=0, ge=0, le=1000, description="first steps whose predicted latent is clipped"
    )
    clip_low: float = Field(default=1.0, gt=0, description="how far clean latents reach")
    clip_high: float = Field(default=1.0, gt=0, description="where a predicted latent is cut at the latest")


Target = Annotated[TddTarget | PcmTarget | LcmTarget | CtmTarget, Field(discriminator="rule")]
Student = Annotated[LoraStudent | FullStudent, Field(discriminator="kind")]
Loss = Annotated[PseudoHuber | L2, Field(discriminator="kind")]
VARIANTS = {"target": "rule", "student": "kind", "loss": "kind"}
"""The key that chooses the variant of a section."""


class Recipe(Section):
    """A complete distillation run."""

    description: str = Field(min_length=1, description="one line for `tdd recipes`")
    model: Model
    data: Data
    target: Target
    teacher: Teacher = Teacher()
    student: Student = LoraStudent(kind="lora")
    loss: Loss = PseudoHuber(kind="pseudo_huber")
    train: Train
    checkpoint: Checkpoint
    preview: Preview
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        conflicts = list(_conflicts(self))
        if conflicts:
            text = "; ".join(f"{path} {problem}" for path, problem in conflicts)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})
        return self


def longest_jump(grid: int, k: int) -> int:
    """The longest jump of k equal steps on the grid, timesteps: core.times.largest_gap without torch."""
    stride = TRAINING_TIMESTEPS // grid
    visited = [(grid - i * grid // k) * stride - 1 for i in range(k)] + [0]
    return max(upper - lower for upper, lower in pairwise(visited))


def _conflicts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for each value that is fine alone and does not fit another."""
    grid, target, train, sample = recipe.teacher.grid, recipe.target, recipe.train, recipe.sample
    yield from _data_conflicts(recipe.data)
    if not all(recipe.model.loras):
        yield "model.loras", "must be FILE or FILE:SCALE each, got an empty one"
    if TRAINING_TIMESTEPS % grid:
        yield "teacher.grid", f"must divide {TRAINING_TIMESTEPS} (50, 100, 125, 200, 250, ...), got {grid}"
    elif isinstance(target, TddTarget):
        yield from _tdd_conflicts(target, grid, sample)
    elif isinstance(target, PcmTarget) and target.phases > grid:
        yield "target.phases", f"must be at most teacher.grid ({grid}), got {target.phases}"
    if sample.steps > grid:
        yield "sample.steps", f"must be at most teacher.grid ({grid}), got {sample.steps}"
    if sample.clip_x0 > sample.steps:
        yield "sample.clip_x0", f"must be at most sample.steps ({sample.steps}), got {sample.clip_x0}"
    if sample.clip_high < sample.clip_low:
        yield (
            "sample.clip_high",
            f"must be at least sample.clip_low ({sample.clip_low}), got {sample.clip_high}",
        )
    if train.device_batch is not None and train.global_batch % train.device_batch:
        yield (
            "train.device_batch",
            f"must divide global_batch ({train.global_batch}), got {train.device_batch}",
        )
    if train.warmup >= train.steps:
        yield "train.warmup", f"must be less than train.steps ({train.steps}), got {train.warmup}"


def _data_conflicts(data: Data) -> Iterator[tuple[str, str]]:
    on_disk = data.cache in ("latents", "all")
    if (data.source is None) == (data.prompts is None):
        both = "both given" if data.source else "neither given"
        yield "data.source", f"or data.prompts must be given, one of the two, got {both}"
    if data.prompts and not on_disk:
        yield "data.cache", f"must be latents or all with data.prompts, got {data.cache!r}"
    if data.prompts and data.flip:
        yield "data.flip", "must be false with data.prompts: the teacher draws no mirror images, got true"
    if data.max_aspect > 1 and (data.prompts or not on_disk):
        yield (
            "data.max_aspect",
            f"above 1 needs data.source, and data.cache latents or all, got {data.max_aspect}",
        )
    try:
        parse_thresholds(data.where)
    except ValueError as error:
        yield "data.where", str(error)


def _tdd_conflicts(target: TddTarget, grid: int, sample: Sample) -> Iterator[tuple[str, str]]:
    if not target.k_min <= target.k_max <= grid:
        yield (
            "target.k_max",
            f"must be from k_min ({target.k_min}) to teacher.grid ({grid}), got {target.k_max}",
        )
        return
    needed = longest_jump(grid, target.k_min)
    if target.reach is not None and target.reach < needed:
        yield (
            "target.reach",
            f"must be at least {needed}, the longest of {target.k_min} steps, got {target.reach}",
        )
    if sample.schedule == "early" and not target.k_min <= sample.steps <= target.k_max:
        yield "sample.steps", f"must be {target.k_min}..{target.k_max} for schedule early, got {sample.steps}"


KEYS: tuple[Key, ...] = tuple(keys_of(Recipe))
"""Every key of a recipe, documented."""

_PATHS = {key.path for key in KEYS} | set(Recipe.model_fields)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a shipped name or a YAML file, with `key=value` overrides applied.

    An override that chooses another variant (target.rule=pcm) drops the keys only the file's variant knows,
    so every rule can be tried on every recipe. Raises RecipeError listing all mistakes, each with its line.
    """
    file = find_recipe(name_or_path)
    return parse_recipe(read_text(file), str(file), overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `text`; `source` names it in error messages."""
    data, places = yaml_lines.load(text, lambda line: f"{source}:{line}")
    places[()] = source
    if data is None:
        raise RecipeError(f"{source} is empty", hint="Start from a copy: tdd recipes copy emoji-4to8 my.yaml")
    if not isinstance(data, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of sections (model:, data:, ...), got {_shown(data)}"
        )
    data, places = _override(data, places, overrides)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _as_recipe_error(error, data, places) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal one."""
    return yaml_lines.dump(recipe.model_dump())


def recipe_name(name_or_path: str | Path) -> str:
    """A short name for a recipe: the file's stem."""
    return Path(name_or_path).stem or "recipe"


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe given by shipped name or by path."""
    text = str(name_or_path)
    shipped = recipe_folder() / f"{text}.yaml"
    if text in recipe_names():
        return shipped
    file = Path(text)
    if file.is_dir():
        inside = file / "recipe.yaml"
        hint = f"Did you mean {inside}?" if inside.is_file() else "Give the YAML file itself."
        raise RecipeError(f"{text!r} is a folder, not a recipe", hint=hint)
    if not file.exists():
        close = nearest(file.stem, recipe_names())
        shown = f"Did you mean {close!r}? " if close else ""
        raise RecipeError(
            f"there is no recipe or file {text!r}", hint=f"{shown}Shipped: {', '.join(recipe_names())}."
        )
    return file


def read_text(file: Path) -> str:
    """The text of a recipe file; RecipeError where it cannot be one."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise RecipeError(
                f"{file} is {file.stat().st_size:,} bytes: not a recipe, which is a short YAML file"
            )
        content = file.read_bytes()
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file}:{line}: not UTF-8 text", hint="Save the recipe as UTF-8.") from None


def _override(
    data: dict[str, Any], places: dict[Where, str], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[Where, str]]:
    """The data and the places with every `key=value` put in; the ones that choose a variant go first."""
    data, places = copy.deepcopy(data), dict(places)
    pairs = [_split(override) for override in overrides]
    choices = {f"{section}.{key}" for section, key in VARIANTS.items()}
    for path, value, text in sorted(pairs, key=lambda pair: pair[0] not in choices):
        if path in choices:
            _drop_other_variant(data, path, value)
        _put(data, path.split("."), value)
        places[tuple(path.split("."))] = f"--set {text}"
    return data, places


def _split(override: str) -> tuple[str, Any, str]:
    """(key, value, text) of one `key=value`, split at the first "="; the value is YAML."""
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals:
        raise RecipeError(
            f"--set {override!r} has no value", hint="Write --set key=value, for instance train.lr=1e-4."
        )
    if path not in _PATHS:
        also = did_you_mean(path, sorted(_PATHS))
        raise RecipeError(f"unknown key {path!r} in --set{also}", hint="tdd recipes keys lists every key.")
    value, _ = yaml_lines.load(text, lambda line: f"--set {override}")
    return path, value, override


def _drop_other_variant(data: dict[str, Any], path: str, value: Any) -> None:
    """Remove from the section what its present variant knows and the chosen one does not."""
    name, choice = path.split(".")
    section = data.get(name)
    if isinstance(section, dict) and section.get(choice) != value:
        foreign = _variant_keys(name, section.get(choice)) - _variant_keys(name, value)
        data[name] = {key: kept for key, kept in section.items() if key not in foreign}


def _variant_keys(section: str, variant: Any) -> set[str]:
    """The keys that one variant of a section takes."""
    return {
        key.path.partition(".")[2]
        for key in KEYS
        if key.path.startswith(section + ".") and key.variant == variant
    }


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    data[path[-1]] = value


def _as_recipe_error(error: ValidationError, data: dict[str, Any], places: dict[Where, str]) -> RecipeError:
    """All mistakes pydantic found, one line each, in the order of the file."""
    lines = [line for one in error.errors() for line in _worded(one, data, places)]
    shown = lines[:15] + ([f"... and {len(lines) - 15} more"] if len(lines) > 15 else [])
    return RecipeError("\n".join(shown), hint="tdd recipes keys lists every key, its type and its default.")


def _worded(one: Any, data: dict[str, Any], places: dict[Where, str]) -> Iterator[str]:
    """One pydantic error as `where: what must be, got what`."""
    path: Where = one["loc"]
    if path and path[0] in VARIANTS and len(path) > 1:
        path = (path[0], *path[2:])  # pydantic puts the variant's name in between
    if one["type"] == "conflict":
        for dotted, problem in one["ctx"]["conflicts"]:
            yield f"{_place(tuple(dotted.split('.')), places)}: {dotted} {problem}"
    elif one["type"] == "extra_forbidden":
        yield f"{_place(path, places)}: {_unknown(path, data)}"
    elif one["type"] in ("union_tag_invalid", "union_tag_not_found") and isinstance(one["input"], dict):
        path = (*path, VARIANTS[str(path[0])])
        given = one["input"].get(path[-1]) if path[-1] in one["input"] else ...
        yield f"{_place(path, places)}: {_mismatch(path, given)}"
    else:
        yield f"{_place(path, places)}: {_mismatch(path, ... if one['type'] == 'missing' else one['input'])}"


def _place(path: Where, places: dict[Where, str]) -> str:
    """Where `path` stands; for what is missing, the section it is missing from."""
    while path not in places:
        path = path[:-1]
    return places[path]


def _mismatch(path: Where, given: Any) -> str:
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    key_path = ".".join(part for part in path if isinstance(part, str))
    words = list(dict.fromkeys(key.wanted for key in KEYS if key.path == key_path))
    if not words:  # a whole section
        words = ["a mapping of keys (" + ", ".join(_section_keys(key_path)) + ")"]
    elif isinstance(path[-1], int):
        words = ["text"]
    elif len(words) > 1:
        words = ["one of " + ", ".join(words)]
    return (
        f"{dotted} is missing; it must be {words[0]}"
        if given is ...
        else f"{dotted} must be {words[0]}, got {_shown(given)}"
    )


def _section_keys(section: str) -> list[str]:
    return list(
        dict.fromkeys(key.path.partition(".")[2] for key in KEYS if key.path.startswith(section + "."))
    )


def _unknown(path: Where, data: dict[str, Any]) -> str:
    """What to say of a key nobody reads: whose it is, or the nearest one."""
    dotted = ".".join(map(str, path))
    section = str(path[0])
    owners = [key.variant for key in KEYS if key.path == dotted and key.variant]
    if owners:
        chosen = data[section][VARIANTS[section]]
        takes = ", ".join(sorted(_variant_keys(section, chosen) - {VARIANTS[section]})) or "no keys"
        return f"{dotted} belongs to {VARIANTS[section]} {owners[0]}; {chosen} takes {takes}"
    siblings = [known for known in _PATHS if known.startswith(section + ".")] if len(path) > 1 else []
    close = did_you_mean(dotted, sorted(siblings)) or did_you_mean(dotted, sorted(_PATHS))
    return f"unknown key {dotted!r}{close}"


def _shown(value: Any) -> str:
    """A value as a reader of YAML knows it, short."""
    names: dict[type, str] = {
        dict: "a mapping",
        list: "a list",
        bool: str(value).lower(),
        type(None): "nothing",
    }
    text = names.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
