"""Stable Diffusion 1.x (and its fine-tunes): one CLIP text encoder, no other condition."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tdd_cli.families.base import Cond
from tdd_cli.families.latent import UNET_TARGETS, LatentFamily
from tdd_cli.families.layout import Parts


class SD15(LatentFamily):
    """Cond: text [B, 77, D], the text encoder's last hidden state. Null: the empty prompt's."""

    name: ClassVar[str] = "sd15"
    parts: ClassVar[Parts] = Parts(
        pipeline="StableDiffusionPipeline",
        models={"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"},
        without=("safety_checker", "feature_extractor", "image_encoder"),
        flags={"requires_safety_checker": False},
        tokenizers=("tokenizer",),
        mark="cond_stage_model.",
    )
    lora_targets: ClassVar[tuple[str, ...]] = UNET_TARGETS

    def _encode(self, prompts: list[str], sizes: Tensor | None) -> Cond:
        text, _ = self.pipe.encode_prompt(prompts, self.vae.device, 1, False)
        return {"text": text}

    def _inputs(self, cond: Cond, dtype: torch.dtype) -> dict[str, Any]:
        return {"encoder_hidden_states": cond["text"].to(dtype)}
