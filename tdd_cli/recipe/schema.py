"""A recipe: all its sections, and the keys they have."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tdd_cli.recipe.conflicts import conflicts_of
from tdd_cli.recipe.data import Data, Model
from tdd_cli.recipe.method import LoraStudent, Loss, PseudoHuber, Student, Target, Teacher
from tdd_cli.recipe.section import Section
from tdd_cli.recipe.train import Checkpoint, Preview, Sample, Train
from tdd_cli.recipe_keys import Key, keys_of


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
        conflicts = list(conflicts_of(self))
        if conflicts:
            text = "; ".join(f"{path} {problem}" for path, problem in conflicts)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})
        return self


KEYS: tuple[Key, ...] = tuple(keys_of(Recipe))
"""Every key of a recipe, documented."""

PATHS = {key.path for key in KEYS} | set(Recipe.model_fields)
"""Every path that --set takes: keys, and whole sections."""


def variant_keys(section: str, variant: Any) -> set[str]:
    """The keys that one variant of a section takes."""
    return {
        key.path.partition(".")[2]
        for key in KEYS
        if key.path.startswith(section + ".") and key.variant == variant
    }
