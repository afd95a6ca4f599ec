"""ControlNets: a second network that reads a picture of edges, depth or a pose and leads the first by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families.hub import HUB_ID, hub_answers
from tdd_cli.families.libraries import quiet
from tdd_cli.families.loading import open_part

CONTROLS = {  # family -> kind -> hub id
    "sd15": {
        "canny": "lllyasviel/control_v11p_sd15_canny",
        "depth": "lllyasviel/control_v11f1p_sd15_depth",
        "openpose": "lllyasviel/control_v11p_sd15_openpose",
        "scribble": "lllyasviel/control_v11p_sd15_scribble",
    },
    "sdxl": {
        "canny": "diffusers/controlnet-canny-sdxl-1.0",
        "depth": "diffusers/controlnet-depth-sdxl-1.0",
    },
}


class Controlled(nn.Module):
    """A UNet led by ControlNets, called as the UNet itself: their residuals are added inside it.

    pictures  what each ControlNet reads, [1, 3, H, W] in [0, 1], the same for every picture of a batch
    scales    how strongly each leads
    """

    def __init__(
        self, net: nn.Module, nets: Sequence[nn.Module], pictures: Sequence[Tensor], scales: Sequence[float]
    ) -> None:
        super().__init__()
        self.net, self.nets, self.scales = net, nn.ModuleList(nets), tuple(scales)
        for i, picture in enumerate(pictures):
            self.register_buffer(f"picture_{i}", picture)

    def forward(self, x: Tensor, t: Tensor, **inputs: Any) -> Any:
        """As of UNet2DConditionModel."""
        down: list[Tensor] = []
        mid: Tensor | None = None
        led = {key: value for key, value in inputs.items() if key != "return_dict"}
        for i, (net, scale) in enumerate(zip(self.nets, self.scales, strict=True)):
            picture = self.get_buffer(f"picture_{i}").to(x).expand(len(x), -1, -1, -1)
            more, middle = net(
                x, t, controlnet_cond=picture, conditioning_scale=scale, return_dict=False, **led
            )
            down = [a + b for a, b in zip(down, more, strict=True)] if down else list(more)
            mid = middle if mid is None else mid + middle
        return self.net(
            x, t, down_block_additional_residuals=down, mid_block_additional_residual=mid, **inputs
        )


def open_control(kind: str, family: str) -> nn.Module:
    """A ControlNet by its kind (see CONTROLS), its folder or its hub id, frozen, float32, on the CPU.

    Raises UsageError for what is none, MissingComponent for what cannot be reached.
    """
    known = CONTROLS.get(family, {})
    name = known.get(kind, kind)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(name):
            raise UsageError(
                f"no ControlNet {kind!r} for {family}",
                hint=f"Known: {', '.join(known) or 'none'}; or give its folder or its hub id.",
            )
        folder = _download(name)
    net = open_part(folder, "ControlNetModel", dtype=torch.float32)
    return net.eval().requires_grad_(False)


def control(
    family: Any, nets: Sequence[nn.Module], pictures: Sequence[Tensor], scales: Sequence[float]
) -> None:
    """Put ControlNets on a family's network, in its dtype; UsageError where one is for another family."""
    for net in nets:
        wide: Any = net.config
        if wide.cross_attention_dim != family.net.config.cross_attention_dim:
            raise UsageError(
                f"the ControlNet was made for another model than {family.name}",
                hint="Its text conditions have another width.",
            )
    weight = next(family.net.parameters())
    family.net = Controlled(family.net, nets, pictures, scales).to(weight.device, weight.dtype).eval()


def _download(repo: str) -> Path:
    """The local snapshot of a ControlNet on the hub; the cache's where the hub is silent."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with quiet():
            wanted = ["config.json", "*.safetensors"]
            return Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=not hub_answers()))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise MissingComponent(
            f"the ControlNet {repo} could not be fetched",
            hint=f"Elsewhere: hf download {repo} --local-dir FOLDER; then here --control FOLDER:IMAGE",
        ) from error
