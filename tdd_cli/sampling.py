"""How pictures are drawn: steps, guidance, schedule, clipping. A value; everything that samples takes one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from torch import Tensor

from tdd_cli.core.clip import dynamic_threshold
from tdd_cli.core.edit import last_part
from tdd_cli.core.sampler import Clip
from tdd_cli.core.times import early, equal, explicit, solver_grid
from tdd_cli.errors import UsageError
from tdd_cli.inference import Inference


@dataclass(frozen=True)
class Sampling:
    """The settings of a picture besides its prompt and seed; `of` takes a student's own."""

    steps: int = 4
    guidance: float | tuple[float, ...] = 1.0  # scale, 1 = off; one for every step, or one for all
    eta: float = 0.0  # share by which a step undershoots before noise is added back
    schedule: Literal["equal", "early"] | tuple[int, ...] = "equal"
    clip_x0: int = 0  # first steps whose x0 is clipped
    clip_low: float = 1.0  # core.clip.dynamic_threshold
    clip_high: float = 1.0
    grid: int = 250  # points of the teacher's solver grid
    k_min: int = 4  # steps the student was distilled for
    k_max: int = 8
    clip_ratio: float = 0.995
    guidance_mode: Literal["cfg", "post"] = "cfg"  # whose null: the student's own, or the teacher's
    teacher_guidance: float | None = None  # scale the student was distilled at
    negative: str = ""  # prompt of the null; "": the family's own null
    strength: float = 1.0  # share of the schedule that redraws a given picture

    @property
    def calls(self) -> int:
        """Network calls a picture takes."""
        return sum(1 if scale == self.free_guidance else 2 for scale in self.scales())

    @property
    def free_guidance(self) -> float:
        """The scale that costs one call a step: off, or for post-tuning the one that is built in."""
        if self.guidance_mode == "cfg":
            return 1.0
        if self.teacher_guidance is None:
            raise UsageError(
                "guidance mode post needs the scale the student was distilled at",
                hint="Give --teacher-guidance, or teacher_guidance in inference.json.",
            )
        return self.teacher_guidance

    def times(self) -> Tensor:
        """The timesteps visited, descending: `steps` of them, or the last ones where strength is below 1."""
        try:
            return last_part(self._whole(), self.strength)
        except ValueError as error:
            name = "" if isinstance(self.schedule, tuple) else f"{self.schedule} "
            raise UsageError(f"no {name}schedule of {self.steps} steps: {error}") from None

    def scales(self) -> tuple[float, ...]:
        """The guidance of every step that is taken."""
        taken = len(self.times())
        if not isinstance(self.guidance, tuple):
            return (self.guidance,) * taken
        if len(self.guidance) != self.steps:
            raise UsageError(
                f"{len(self.guidance)} guidance scales for {self.steps} steps",
                hint="Give one for every step, or one for all.",
            )
        return self.guidance[-taken:]

    def check(self, *, force: bool = False) -> None:
        """UsageError for settings that cannot be, or, without `force`, steps the student was not made for."""
        self.scales()
        _ = self.free_guidance
        if not self.k_min <= self.steps <= self.k_max and not force:
            raise UsageError(
                f"this student was distilled for {self.k_min}..{self.k_max} steps, not {self.steps}",
                hint="--force draws all the same.",
            )
        if self.clip_x0 > self.steps:
            raise UsageError(f"{self.clip_x0} steps cannot be clipped of {self.steps}")
        if self.clip_low > self.clip_high:
            raise UsageError(f"clipping needs low <= high, got {self.clip_low:g} > {self.clip_high:g}")

    @classmethod
    def of(cls, inference: Inference) -> Sampling:
        """The settings saved beside a student's weights."""
        same = inference.model_dump(include={field.name for field in fields(cls)})
        return cls(grid=inference.teacher_grid, **same)

    def clip(self) -> Clip:
        """The x0 clipping of the first steps."""
        return partial(dynamic_threshold, ratio=self.clip_ratio, low=self.clip_low, high=self.clip_high)

    def _whole(self) -> Tensor:
        if isinstance(self.schedule, tuple):
            if len(self.schedule) != self.steps:
                raise ValueError(f"{len(self.schedule)} timesteps are given")
            return explicit(self.schedule)
        grid = solver_grid(self.grid)
        if self.schedule == "early":
            return early(grid, self.steps, self.k_min, self.k_max)
        return equal(grid, self.steps)
