"""Previews: fixed prompts drawn by the teacher and by the student as it is, in one labelled picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from tdd_cli.core.guidance import Network
from tdd_cli.families.base import Family
from tdd_cli.generate import Sampling, draw
from tdd_cli.pictures import grid, to_images

TEACHER_STEPS = 50


class Previews:
    """Draws the preview of a run; the teacher's row is drawn once."""

    def __init__(
        self,
        family: Family,
        student: Network,
        teacher: Network,
        prompts: Sequence[str],
        *,
        seed: int,
        size: tuple[int, int],
        sampling: Sampling,
        teacher_guidance: float,
    ) -> None:
        self.family, self.student, self.size, self.sampling = family, student, size, sampling
        self.prompts, self.seeds = list(prompts), [seed + i for i in range(len(prompts))]
        slow = Sampling(steps=TEACHER_STEPS, guidance=teacher_guidance)
        self.rows = [self._row(teacher, slow)]
        self.labels = [f"teacher, {TEACHER_STEPS} steps"]

    def draw(self, step: int) -> Image.Image:
        """The teacher's row, and the student's at its fewest and its most steps."""
        rows, labels = list(self.rows), list(self.labels)
        for steps in sorted({self.sampling.k_min, self.sampling.k_max}):
            fast = replace(self.sampling, steps=steps, clip_x0=min(self.sampling.clip_x0, steps))
            rows.append(self._row(self.student, fast))
            labels.append(f"student, {steps} steps")
        return grid(rows, labels, self.prompts, title=f"after {step} training steps")

    def _row(self, network: Network, sampling: Sampling) -> list[Image.Image]:
        """The prompts' pictures by one network."""
        return to_images(
            draw(self.family, self.prompts, self.seeds, sampling, size=self.size, network=network)
        )
