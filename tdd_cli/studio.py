"""A model made ready to draw: weights in place, ControlNets and given pictures loaded, memory savers on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tdd_cli.core.guidance import Network
from tdd_cli.errors import UsageError
from tdd_cli.families.base import Family
from tdd_cli.families.compiled import compile_net
from tdd_cli.families.control import control, open_control
from tdd_cli.families.offload import offload
from tdd_cli.generate import Edit, Picture, generate
from tdd_cli.pictures import fitted, open_image, to_pixels
from tdd_cli.record import Given, Making
from tdd_cli.sampling import Sampling
from tdd_cli.student import fastest, load_with_teacher


@dataclass(frozen=True)
class Studio:
    """What draws; see `open_studio`."""

    family: Family
    teacher: Network
    edit: Edit | None
    size: tuple[int, int]  # (height, width) in pixels
    batch: int | Literal["auto"]

    def pictures(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        by_teacher: bool = False,
        each_step: Callable[[int], None] | None = None,
    ) -> Iterator[Picture]:
        """A picture for each prompt and seed, by the student or by its teacher."""
        return generate(
            self.family, prompts, seeds, sampling, size=self.size, batch=self.batch, edit=self.edit,
            network=self.teacher if by_teacher else None, teacher=self.teacher, each_step=each_step,
        )  # fmt: skip


def open_studio(
    making: Making,
    *,
    batch: int | Literal["auto"] = "auto",
    with_teacher: bool = False,
    offloaded: bool = False,
    tiled: bool = False,
    compiled: bool = False,
) -> Studio:
    """Load all that a making names; `with_teacher` keeps the adapter apart, to be switched off."""
    source, controls = making.source, making.given.controls
    nets = [open_control(kind, source.inference.family) for kind, _, _ in controls]
    family, teacher = load_with_teacher(source, "cpu" if offloaded else None)
    adapted = source.weights is not None and source.inference.student == "lora"
    if adapted and not with_teacher:
        family.net.fuse_lora()  # type: ignore[operator]
    size = making.size or family.default_size
    family.latent_shape(*size)  # refused here if it cannot be
    edit = load_edit(making.given, size)
    if controls:
        led_by = [to_pixels(fitted(path, size)) for _, path, _ in controls]
        control(family, nets, led_by, [scale for _, _, scale in controls])
    if tiled:
        family.pipeline().vae.enable_tiling()
    if compiled:
        family.net = compile_net(family.net, graphs=fastest().type == "cuda")
    if offloaded:
        offload(family, fastest())
    return Studio(family, teacher, edit, size, batch)


def load_edit(given: Given, size: tuple[int, int]) -> Edit | None:
    """The picture to start from and its mask, white where it is redrawn, at the size of the drawing."""
    if given.init is None:
        return None
    pixels = to_pixels(fitted(given.init, size)) * 2 - 1
    if given.mask is None:
        return Edit(pixels)
    mask = (to_pixels(fitted(given.mask, size).convert("L")) > 0.5).float()
    if not mask.any():
        raise UsageError(f"{given.mask} is black: nothing would be redrawn", hint="White is redrawn.")
    return Edit(pixels, mask)


def check_given(given: Given) -> None:
    """Refuse pictures that cannot be read, and a mask of nothing, before anything is loaded."""
    if given.mask is not None and given.init is None:
        raise UsageError("--mask says what of a picture is redrawn", hint="Give the picture: --init IMAGE")
    files = [path for path in (given.init, given.mask) if path is not None]
    for path in [*files, *(path for _, path, _ in given.controls)]:
        open_image(path)
