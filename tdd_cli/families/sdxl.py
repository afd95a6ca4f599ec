"""Stable Diffusion XL (base): two CLIP text encoders, a pooled embedding, and the sizes of the picture."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tdd_cli.core.device import moved
from tdd_cli.families.base import Cond, uncropped
from tdd_cli.families.latent import UNET_TARGETS, LatentFamily
from tdd_cli.families.layout import Parts


class SDXL(LatentFamily):
    """Cond: text [B, 77, D], pooled [B, P], sizes [B, 6].

    Null: zeros for text and pooled where the pipeline's force_zeros_for_empty_prompt says so, as it does for
    SDXL itself; the empty prompt's encoding otherwise. The sizes stay.
    """

    name: ClassVar[str] = "sdxl"
    parts: ClassVar[Parts] = Parts(
        pipeline="StableDiffusionXLPipeline",
        models={
            "unet": "UNet2DConditionModel",
            "vae": "AutoencoderKL",
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "CLIPTextModelWithProjection",
        },
        without=("feature_extractor", "image_encoder"),
        flags={"add_watermarker": False},
        tokenizers=("tokenizer", "tokenizer_2"),
        mark="conditioner.embedders.",
    )
    lora_targets: ClassVar[tuple[str, ...]] = UNET_TARGETS

    def _encode(self, prompts: list[str], sizes: Tensor | None) -> Cond:
        device = self.vae.device
        text, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if sizes is None:
            sizes = uncropped(*self.default_size, len(prompts))
        # float32 even for a 16-bit network: bfloat16 cannot tell 1023 from 1024
        return {"text": text, "pooled": pooled, "sizes": moved(sizes, device).float()}

    def _null_of(self, key: str, value: Tensor) -> Tensor:
        if key == "sizes":
            return value
        if self.pipe.config.force_zeros_for_empty_prompt:
            return torch.zeros_like(value)
        return super()._null_of(key, value)

    def _inputs(self, cond: Cond, dtype: torch.dtype) -> dict[str, Any]:
        added = {"text_embeds": cond["pooled"].to(dtype), "time_ids": cond["sizes"]}
        return {"encoder_hidden_states": cond["text"].to(dtype), "added_cond_kwargs": added}

    def _flags(self) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": self.pipe.config.force_zeros_for_empty_prompt}
