"""What a recipe distils, and how: targets, teacher, student, loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tdd_cli.recipe.section import Section


class TddTarget(Section):
    """Near stops of the k_min..k_max-step samplers (TDD, the method of this package)."""

    rule: Literal["tdd"] = Field(description="near stops of k_min..k_max-step samplers")
    k_min: int = Field(default=4, ge=1, le=1000, description="fewest sampling steps trained for")
    k_max: int = Field(default=8, ge=1, le=1000, description="most sampling steps trained for")
    candidates: Literal["window", "steps"] = Field(
        default="window",
        description="which stops are drawn from: all within reach (the published code), or the next one of "
        "each number of steps (the paper's figure 2a)",
    )
    reach: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="window: how far below the nearest stop a target may lie, timesteps (null: as far as "
        "needed)",
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


Target = Annotated[TddTarget | PcmTarget | LcmTarget | CtmTarget, Field(discriminator="rule")]
Student = Annotated[LoraStudent | FullStudent, Field(discriminator="kind")]
Loss = Annotated[PseudoHuber | L2, Field(discriminator="kind")]
VARIANTS = {"target": "rule", "student": "kind", "loss": "kind"}
"""The key that chooses the variant of a section."""
