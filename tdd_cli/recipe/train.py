"""How a recipe's run goes and what it leaves: optimisation, checkpoints, previews, sampling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tdd_cli.recipe.section import Section


class Train(Section):
    """The optimisation."""

    steps: int = Field(ge=1, description="optimizer steps")
    global_batch: int = Field(ge=1, description="samples per optimizer step, over all devices")
    device_batch: int | None = Field(
        default=None,
        ge=1,
        description="samples in one forward pass on one device (null: global_batch / processes)",
    )
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit", "prodigy"] = Field(
        default="adamw",
        description="adamw8bit keeps its state in 8 bits, paged_adamw8bit on the host where the GPU has no "
        "room (extra 8bit); prodigy finds its learning rate (extra prodigy)",
    )
    lr: float = Field(
        gt=0, le=1, description="learning rate; with prodigy a factor on the one it finds, usually 1"
    )
    warmup: int = Field(default=0, ge=0, description="steps over which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="the learning rate after the warm-up"
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="decoupled weight decay")
    grad_clip: float = Field(
        default=1.0, gt=0, description="largest gradient norm; longer gradients are scaled down"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay, each step, of an average of the student, which previews and the result then are: "
        "0.99 to 0.9999, the longer the run the higher (null: none)",
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
    compile: bool = Field(
        default=False,
        description="compile the network: minutes at first, quicker steps after (not with student.merge)",
    )
    channels_last: bool = Field(
        default=False,
        description="lay convolutions out as tensor cores want them: often faster in 16 bits on a GPU",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about 30 % more time"
    )
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], Field(strict=False)] = Field(
        default=(), description="experiment trackers that get what log.jsonl gets (extra track)"
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
