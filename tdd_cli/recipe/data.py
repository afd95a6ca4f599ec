"""What a recipe starts from: the model, and the pictures or prompts."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from tdd_cli.recipe.section import Section


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
        description="in place of source: a file of prompts (one a line, or the caption_column of a .csv, "
        ".tsv, .json, .jsonl or .parquet), of which the teacher makes the latents; bundled:emoji has its "
        "data's captions",
    )
    streaming: bool = Field(
        default=False,
        description="read parquet files and hub data sets where they are, row group by row group, instead of "
        "converting them first (tars always are)",
    )
    fetched_gb: float = Field(
        default=50.0,
        ge=0,
        description="room for copies of what is streamed from addresses; beyond it those used longest ago "
        "are removed, all but the 16 newest files",
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
