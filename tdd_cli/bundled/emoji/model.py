"""The miniature's parts: SDXL's architecture, small enough for a laptop's processor."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tdd_cli.bundled.emoji import IMAGE_SIZE

LENGTH = 16  # tokens of a prompt, start and end included
LATENT = (4, 16, 16)
WIDTHS = (64, 128)  # of the two text encoders; prompts are their concatenation
TIME_IDS = (IMAGE_SIZE, IMAGE_SIZE, 0, 0, IMAGE_SIZE, IMAGE_SIZE)  # what the pipeline passes by default


class Cond(NamedTuple):
    """What the network takes besides latents and time."""

    embeds: Tensor  # [B, 16, 192]
    pooled: Tensor  # [B, 128]

    def where(self, keep: Tensor) -> Cond:
        """The null condition, zeros as in SDXL's pipeline, wherever keep [B] is false."""
        return Cond(self.embeds * keep[:, None, None], self.pooled * keep[:, None])


class Text(NamedTuple):
    """A tokenizer and two encoders, the second of which also gives the pooled embedding."""

    tokenizer: CLIPTokenizer
    first: CLIPTextModel
    second: CLIPTextModelWithProjection

    def tokens(self, prompts: list[str]) -> Tensor:
        """[B, 16]"""
        ids: Tensor = self.tokenizer(
            prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    def encode(self, tokens: Tensor) -> Cond:
        """As SDXL's pipeline does: the last but one layer of both, and the second's projected end token."""
        first = self.first(tokens, output_hidden_states=True)
        second = self.second(tokens, output_hidden_states=True)
        return Cond(
            torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds
        )


def new_text(tokenizer: CLIPTokenizer) -> Text:
    """Two untrained encoders."""

    def config(width: int, layers: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    first, second = WIDTHS
    return Text(tokenizer, CLIPTextModel(config(first, 2)), CLIPTextModelWithProjection(config(second, 3)))


def new_unet() -> UNet2DConditionModel:
    """About 5.5 M parameters."""
    return UNet2DConditionModel(
        sample_size=LATENT[1],
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=(2, 3, 4),  # diffusers' name for the number of heads
        cross_attention_dim=sum(WIDTHS),
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=16 * len(TIME_IDS) + WIDTHS[1],
    )


def new_scheduler() -> DDIMScheduler:
    """SDXL's noise, v-prediction. Trailing: sampling starts at the last time, nearly pure noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
    )


def denoise(unet: UNet2DConditionModel, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network's raw output, v: [B, 4, 16, 16]."""
    time_ids = torch.tensor(TIME_IDS, dtype=torch.float32, device=x_t.device).expand(len(x_t), -1)
    added = {"text_embeds": cond.pooled, "time_ids": time_ids}
    v: Tensor = unet(x_t, t, encoder_hidden_states=cond.embeds, added_cond_kwargs=added).sample
    return v


def load_text(folder: Path) -> Text:
    """The text parts of a pipeline folder."""
    return Text(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )


def save_text(text: Text, folder: Path) -> None:
    """As a pipeline folder holds them; both tokenizers are the same one."""
    text.tokenizer.save_pretrained(folder / "tokenizer")
    text.tokenizer.save_pretrained(folder / "tokenizer_2")
    text.first.save_pretrained(folder / "text_encoder")
    text.second.save_pretrained(folder / "text_encoder_2")
