"""What the latent families share: a VAE, text encoders and a network out of one diffusers pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tdd_cli.core.device import moved
from tdd_cli.core.schedule import NoiseSchedule
from tdd_cli.errors import UsageError
from tdd_cli.families.base import Cond
from tdd_cli.families.layout import Parts
from tdd_cli.families.libraries import quiet
from tdd_cli.families.loading import open_pipeline
from tdd_cli.scheduler import schedule_of

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

PIXELS_AT_ONCE = 1024**2  # that the VAE is given; in float32 its work on as many takes up to 3 GiB

# the modules of a UNet2DConditionModel that the published recipe adapts, by the ends of their names
UNET_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


class LatentFamily:
    """A diffusers pipeline behind the Family protocol, less what a family's own file adds.

    Prompts go through the pipeline's own encode_prompt, so the condition is what diffusers would use.
    The VAE stays in float32: in float16 SDXL's gives black pictures, in bfloat16 every VAE loses detail,
    and it is run once a picture. Decode 16-bit latents with `decode`, not through `pipeline()`.
    """

    name: ClassVar[str]
    parts: ClassVar[Parts]
    lora_targets: ClassVar[tuple[str, ...]]
    lora_prefix: ClassVar[str] = "unet"

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.net: nn.Module = getattr(pipe, self.parts.net)
        self.vae = pipe.vae.float()
        self.schedule: NoiseSchedule = _schedule(pipe.scheduler.config)
        self.truncated = 0  # prompts cut so far to the length the text encoder takes
        self._empty: Cond | None = None
        self._known: dict[str, Cond] | None = None  # conditions by prompt, once the text encoders are gone
        for module in self._modules():
            module.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str, *, dtype: torch.dtype, config: str | None = None) -> Self:
        """Open a folder, hub id, single file or bundled model; see `load_family`."""
        return cls(open_pipeline(path, cls.name, cls.parts, dtype=dtype, config=config))

    def to(self, device: torch.device | str) -> Self:
        """Move everything to `device`; returns self."""
        for module in self._modules():
            module.to(device)
        self.schedule = self.schedule.to(device)
        self._empty = None
        return self

    def pipeline(self) -> Any:
        """A plain diffusers pipeline around the same modules (and the same network, adapter and all)."""
        parts = {**self.pipe.components, self.parts.net: self.net}  # perhaps another
        with quiet():
            return type(self.pipe)(**{**parts, **self.parts.flags, **self._flags()})

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was made for."""
        size = self.pipe.unet.config.sample_size  # of the latents: one number or two
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of x0 for a picture of height x width pixels."""
        factor = self.pipe.vae_scale_factor
        if height < factor or width < factor or height % factor or width % factor:
            raise UsageError(
                f"cannot make a picture of {height} x {width} pixels",
                hint=f"height and width must be positive multiples of {factor}",
            )
        return self.vae.config.latent_channels, height // factor, width // factor

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """x0 of pixels [B, 3, H, W] in [-1, 1]: the posterior's mean, or a draw by `generator`."""
        pixels = moved(pixels, self.vae.device).float()
        found = [self.vae.encode(part).latent_dist for part in _few(pixels, pixels[0, 0].numel())]
        posterior = type(found[0])(torch.cat([part.parameters for part in found]))
        z: Tensor = posterior.mode() if generator is None else posterior.sample(generator)
        shift, scale = self._latent_scale()
        return (z - shift) * scale  # [B, C, h, w]

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] of x0 [B, C, h, w]."""
        shift, scale = self._latent_scale()
        z = x0.to(self.vae.device, torch.float32) / scale + shift
        parts = _few(z, z[0, 0].numel() * self.pipe.vae_scale_factor**2)
        return torch.cat([self.vae.decode(part, return_dict=False)[0] for part in parts]).clamp(-1, 1)

    def encode_prompts(self, prompts: Sequence[str], sizes: Tensor | None = None) -> Cond:
        """The condition of B prompts; see the family for its keys."""
        if self._known is not None:
            return self._recall(prompts, sizes)
        self._count_truncated(prompts)
        with torch.no_grad(), quiet():
            return self._encode(list(prompts), sizes)

    def null(self, cond: Cond) -> Cond:
        """The condition of the empty prompt, for the same batch and with the same sizes."""
        if self._empty is None:
            with torch.no_grad(), quiet():
                self._empty = self._encode([""], None)
        return {key: self._null_of(key, value) for key, value in cond.items()}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond, *, net: nn.Module | None = None) -> Tensor:
        """The raw prediction [B, C, h, w] of `net` (None: self.net) at x_t [B, C, h, w], timesteps t [B]."""
        net = self.net if net is None else net
        dtype = next(net.parameters()).dtype  # read anew: a full fine-tune turns the network to float32
        time = self.schedule.model_time[t]
        pred: Tensor = net(x_t.to(dtype), time, **self._inputs(cond, dtype), return_dict=False)[0]
        return pred.float()

    def release(self, *, text: Sequence[str] | None = None) -> None:
        """Free the memory of the VAE's encoder, and with `text` of the text encoders.

        text: the prompts that can still be encoded afterwards. Pictures cannot, and can still be decoded.
        """
        self.vae.encoder = None
        if text is not None:
            known = {prompt: self.encode_prompts([prompt]) for prompt in {*text, ""}}
            self.null(known[""])
            self._known = known
            for name in self.parts.models:
                if name.startswith("text_encoder"):
                    setattr(self.pipe, name, None)

    # --- what a family's own file says ---

    def _encode(self, prompts: list[str], sizes: Tensor | None) -> Cond:
        raise NotImplementedError

    def _inputs(self, cond: Cond, dtype: torch.dtype) -> dict[str, Any]:
        raise NotImplementedError

    def _null_of(self, key: str, value: Tensor) -> Tensor:
        assert self._empty is not None
        return self._empty[key].to(value).expand_as(value)

    def _flags(self) -> dict[str, Any]:
        return {}

    # --- plumbing ---

    def _recall(self, prompts: Sequence[str], sizes: Tensor | None) -> Cond:
        """The conditions of prompts encoded before the text encoders were released."""
        assert self._known is not None
        found = [self._known[prompt] for prompt in prompts]
        cond = {key: torch.cat([one[key] for one in found]) for key in found[0]}
        if "sizes" in cond and sizes is not None:
            cond["sizes"] = sizes.to(cond["sizes"])
        return cond

    def _modules(self) -> Iterator[nn.Module]:
        yield self.net
        yield from (part for part in self.pipe.components.values() if isinstance(part, nn.Module))

    def _latent_scale(self) -> tuple[Tensor, Tensor]:
        """(shift, scale) such that x0 = (z - shift) * scale; [C, 1, 1] or numbers."""
        config: Mapping[str, Any] = self.vae.config
        scale = torch.tensor(config["scaling_factor"], device=self.vae.device)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            return _channels(mean, scale), scale / _channels(std, scale)
        return torch.tensor(config.get("shift_factor") or 0.0, device=self.vae.device), scale

    def _count_truncated(self, prompts: Sequence[str]) -> None:
        tokenizer = self.pipe.tokenizer
        lengths = [len(ids) for ids in tokenizer(list(prompts), verbose=False).input_ids]
        cut = sum(length > tokenizer.model_max_length for length in lengths)
        if cut and not self.truncated:
            log.warning("a prompt is longer than %d tokens: its end is ignored", tokenizer.model_max_length)
        self.truncated += cut


def _schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule of the pipeline's scheduler; UsageError if it has none that makes sense."""
    try:
        return schedule_of(config)
    except ValueError as error:
        raise UsageError(
            f"the model's scheduler: {error}", hint="use another scheduler_config.json: a DDIM or Euler one"
        ) from error


def _few(batch: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """The batch in parts that the VAE takes in one go, `pixels` being those of one picture."""
    return batch.split(max(1, PIXELS_AT_ONCE // pixels))


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(-1, 1, 1)  # [C, 1, 1]
