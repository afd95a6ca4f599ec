"""What a student is and how it is sampled: inference.json, saved beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from tdd_cli.errors import UsageError
from tdd_cli.files import write_atomic
from tdd_cli.recipe import PcmTarget, Recipe, Section, TddTarget

Style = Annotated[tuple[str, float], Field(strict=False)]


class Inference(Section):
    """How a student is to be sampled; saved beside its weights and read back by `tdd sample`."""

    format: Literal[1] = Field(default=1, description="version of this file's layout")
    family: str = Field(min_length=1, description="the architecture")
    model: str = Field(min_length=1, description="the base model, as in the recipe")
    config: str | None = Field(default=None, description="folder with the base model's configuration")
    styles: Annotated[tuple[Style, ...], Field(strict=False)] = Field(
        default=(),
        description="(file, strength) of adapters that made the teacher, to be put on the base model",
    )
    student: Literal["lora", "full"] = Field(default="lora", description="what was trained")
    method: str = Field(min_length=1, description="the target rule")
    teacher_grid: int = Field(ge=2, le=1000, description="points of the solver grid the steps lie on")
    k_min: int = Field(ge=1, le=1000, description="fewest sampling steps trained for")
    k_max: int = Field(ge=1, le=1000, description="most sampling steps trained for")
    resolution: int | None = Field(
        default=None,
        ge=8,
        multiple_of=8,
        description="side of the training pictures, pixels (null: the model's own)",
    )
    steps: int = Field(ge=1, le=1000, description="sampling steps")
    guidance: float = Field(ge=0, description="guidance scale, 1 = off")
    eta: float = Field(ge=0, le=1, description="share by which a step undershoots before noise is added")
    schedule: Literal["equal", "early"] = Field(description="equal steps, or extra ones where the noise is")
    clip_x0: int = Field(ge=0, le=1000, description="first steps whose predicted latent is clipped")
    clip_low: float = Field(default=1.0, gt=0, description="how far clean latents reach")
    clip_high: float = Field(default=1.0, gt=0, description="where a predicted latent is cut at the latest")
    clip_ratio: float = Field(default=0.995, gt=0, le=1, description="quantile of a latent that sets its cut")
    guidance_mode: Literal["cfg", "post"] = Field(
        default="cfg", description="post: guidance with the teacher's null, for students without their own"
    )
    teacher_guidance: float | None = Field(
        default=None, ge=1, le=100, description="scale the student was distilled at (null: unknown)"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Inference:
        if not self.k_min <= self.k_max <= self.teacher_grid:
            raise ValueError("k_min <= k_max <= teacher_grid does not hold")
        return self

    @classmethod
    def of(cls, recipe: Recipe) -> Inference:
        """The settings a recipe's student is made for."""
        k_min, k_max = _trained_steps(recipe)
        own_null = recipe.train.drop_text > 0  # the student saw empty prompts
        sample = recipe.sample.model_dump()
        if not own_null:  # post-tuned scales count from none, not from the distilled one
            sample["guidance"] *= recipe.teacher.guidance
        return cls(
            family=recipe.model.family,
            model=recipe.model.path,
            config=recipe.model.config,
            styles=recipe.model.styles,
            student=recipe.student.kind,
            method=recipe.target.rule,
            teacher_grid=recipe.teacher.grid,
            k_min=k_min,
            k_max=k_max,
            resolution=recipe.data.resolution,
            guidance_mode="cfg" if own_null else "post",
            teacher_guidance=recipe.teacher.guidance,
            **sample,
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the training pictures; None: the model's own."""
        return None if self.resolution is None else (self.resolution, self.resolution)

    def save(self, path: Path) -> None:
        write_atomic(path, json.dumps(self.model_dump(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Inference:
        """The settings in `path`; UsageError where they are missing or unusable."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            hint = "The run has no result yet: finish it with tdd distill --resume."
            raise UsageError(f"{path} does not exist", hint=hint) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
        except ValidationError as error:
            where = [".".join(map(str, one["loc"])) or "the file" for one in error.errors()]
            text = "; ".join(f"{w}: {one['msg']}" for w, one in zip(where, error.errors(), strict=True))
            raise UsageError(
                f"{path}: {text}", hint="The file is written by tdd distill; restore it."
            ) from None


def _trained_steps(recipe: Recipe) -> tuple[int, int]:
    """Fewest and most sampling steps a recipe trains for; rules that aim at none are sampled like TDD."""
    target = recipe.target
    if isinstance(target, PcmTarget):
        return target.phases, target.phases
    aims = target if isinstance(target, TddTarget) else TddTarget(rule="tdd")
    return min(aims.k_min, recipe.teacher.grid), min(aims.k_max, recipe.teacher.grid)
