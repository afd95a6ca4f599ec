"""What the rest of tdd knows of a model: the Family protocol.

A family turns pictures and prompts into (x0, cond) and predicts from (x_t, t, cond). Everything it returns
for the diffusion arithmetic is float32, whatever the dtype of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tdd_cli.core.schedule import NoiseSchedule
from tdd_cli.families.layout import Parts

if TYPE_CHECKING:
    from typing_extensions import Self

Cond = dict[str, Tensor]  # everything the network takes besides x_t and t, batch first


class Family(Protocol):
    """One loaded model. All of it is frozen until an adapter is added to `net` or `net` is unfrozen."""

    name: ClassVar[str]  # its key in FAMILIES
    lora_targets: ClassVar[tuple[str, ...]]  # suffixes of the module names that get an adapter
    parts: ClassVar[Parts]  # of its diffusers pipeline
    lora_prefix: ClassVar[str]  # what diffusers calls the network in a LoRA file: "unet", "transformer"

    net: nn.Module  # the network that is distilled; may be replaced by a wrapped or compiled one
    schedule: NoiseSchedule  # on the device of the network
    truncated: int  # prompts cut so far to the length the text encoder takes

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was made for."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of x0 for a picture of height x width pixels; UsageError if it does not divide."""

    def encode_images(self, pixels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """x0 of pixels [B, 3, H, W] in [-1, 1]: the posterior's mean, or a draw by `generator`."""

    def encode_prompts(self, prompts: Sequence[str], sizes: Tensor | None = None) -> Cond:
        """The condition of B prompts.

        sizes [B, 6]: height and width of the original picture, top and left of the crop, height and width
        of the crop as trained on (see `uncropped`); None for a whole picture of the default size.
        Families whose network takes no sizes ignore it.
        """

    def null(self, cond: Cond) -> Cond:
        """The empty condition of the same batch: what the pipeline uses for no negative prompt."""

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond, *, net: nn.Module | None = None) -> Tensor:
        """The raw prediction [B, C, h, w] of `net` (None: self.net) at x_t [B, C, h, w], timesteps t [B]."""

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] of x0 [B, C, h, w]."""

    def release(self, *, text: Sequence[str] | None = None) -> None:
        """Free what encodes pictures; with `text`, what encodes prompts too, all but these ones."""

    def pipeline(self) -> Any:
        """A plain diffusers pipeline around the same modules."""

    def to(self, device: torch.device | str) -> Self:
        """Move everything to `device`; returns self."""

    @classmethod
    def load(cls, path: str, *, dtype: torch.dtype, config: str | None = None) -> Self:
        """Use `load_family`."""


def uncropped(height: int, width: int, batch: int) -> Tensor:
    """The sizes [B, 6] of whole pictures of height x width pixels: those a pipeline gives when it samples."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(batch, 1)
