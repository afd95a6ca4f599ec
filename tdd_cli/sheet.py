"""Labelled pictures of many ways of drawing: columns of settings, rows of prompts, the same seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from tdd_cli.errors import UsageError
from tdd_cli.knobs import KNOBS, turn, whole
from tdd_cli.pictures import grid
from tdd_cli.sampling import Sampling

TEACHER_STEPS = 50
TEACHER_GUIDANCE = 7.5  # where inference.json does not say at which scale the student was distilled


@dataclass(frozen=True)
class Way:
    """One way of drawing."""

    label: str
    changes: Mapping[str, str]  # of the student's settings, as knobs
    teacher: bool = False  # drawn by the network without its adapter

    def sampling(self, own: Sampling) -> Sampling:
        """The settings it comes to."""
        if self.teacher:
            scale = own.teacher_guidance or TEACHER_GUIDANCE
            return turn(
                replace(
                    own, guidance=scale, guidance_mode="cfg", eta=0.0, schedule="equal", clip_x0=0,
                    grid=250,
                ),
                self.changes,
            )  # fmt: skip
        return turn(own, self.changes)


PLAIN = Way("", {})


def compared(text: str) -> list[Way]:
    """The ways of --compare: "teacher" or "teacher:25" (steps), and numbers of steps of the student."""
    ways = []
    for item in (part.strip() for part in text.split(",")):
        name, _, steps = item.partition(":")
        try:
            if name == "teacher":
                count = whole(steps or str(TEACHER_STEPS), 1, 250)
                ways.append(Way(f"teacher, {_steps(count)}", {"steps": str(count)}, teacher=True))
            else:
                ways.append(Way(_steps(whole(item, 1, 1000)), {"steps": item}))
        except ValueError as problem:
            raise UsageError(
                f"--compare {text}: {problem}", hint="For instance: --compare teacher,4,6,8"
            ) from None
    return ways


def swept(text: str) -> list[Way]:
    """The ways of one --sweep: "guidance=1,2,4,8"; values that hold commas are parted by ";"."""
    name, equals, values = text.partition("=")
    name = name.strip()
    given = [value.strip() for value in values.split(";" if ";" in values else ",")]
    if not equals or name not in KNOBS or not all(given):
        raise UsageError(
            f"--sweep {text!r} is not SETTING=VALUE,VALUE,...", hint=f"Settings: {', '.join(KNOBS)}."
        )
    return [Way(f"{name} {value}", {name: value}) for value in given]


def crossed(sweeps: Sequence[Sequence[Way]]) -> list[Way]:
    """Every combination of the sweeps' ways, one of each."""
    return [
        Way(
            ", ".join(way.label for way in ways if way.label),
            {k: v for way in ways for k, v in way.changes.items()},
        )
        for ways in itertools.product(*sweeps)
    ]


@dataclass(frozen=True)
class Sheet:
    """Columns and, for every prompt, rows of ways."""

    own: Sampling  # what the ways change
    columns: Sequence[Way]
    rows: Sequence[Way] = (PLAIN,)

    def cells(self) -> list[tuple[Way, Way, Sampling]]:
        """(row's way, column's way, settings) of every combination; UsageError for impossible ones."""
        made = []
        for row, column in itertools.product(self.rows, self.columns):
            sampling = column.sampling(turn(self.own, row.changes))
            sampling.check(force=True)
            made.append((row, column, sampling))
        return made

    def ways(self) -> list[tuple[Sampling, bool]]:
        """(settings, whether the teacher draws) of everything to be drawn, each once."""
        return list(dict.fromkeys((sampling, column.teacher) for _, column, sampling in self.cells()))

    def draw(
        self,
        prompts: Sequence[str],
        pictures: Callable[[Sampling, bool], Iterable[Image.Image]],
        *,
        title: str,
        note: str = "",
    ) -> Image.Image:
        """The sheet; `pictures` draws all prompts by (settings, whether the teacher draws)."""
        cells = self.cells()
        made = {way: list(pictures(*way)) for way in self.ways()}
        drawn = [made[sampling, column.teacher] for _, column, sampling in cells]
        width = len(self.columns)
        rows, labels = [], []
        for i, prompt in enumerate(prompts):
            for j, way in enumerate(self.rows):
                rows.append([images[i] for images in drawn[j * width : (j + 1) * width]])
                labels.append(" · ".join(part for part in (prompt, way.label) if part))
        heads = [f"{column.label}\n{_calls(cells[i][2])}" for i, column in enumerate(self.columns)]
        return grid(rows, labels, heads, title=title, note=note, cell=cell_width(rows[0][0]))


def cell_width(image: Image.Image) -> int:
    """How wide a picture is shown: small ones enlarged, large ones reduced."""
    return 128 if image.width <= 128 else min(image.width, 320)


def _steps(count: int) -> str:
    return f"{count} step" + ("s" if count > 1 else "")


def _calls(sampling: Sampling) -> str:
    return f"{sampling.calls} call" + ("s" if sampling.calls > 1 else "")
