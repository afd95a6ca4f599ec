"""The trained parts as one StableDiffusionXLPipeline folder."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from tdd_cli.bundled.emoji.model import new_scheduler
from tdd_cli.bundled.emoji.train import loop
from tdd_cli.bundled.emoji.train.unet import new_nets


def export(folder: Path, out: Path) -> None:
    """The average's weights, those of the two large parts in half precision on disk.

    diffusers loads them as float32 all the same; transformers would not, so the text encoders stay as
    they are.
    """
    nets = new_nets(folder)
    nets.load(loop.restore(folder / "unet.pt")["average"])
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=nets.text.first,
        text_encoder_2=nets.text.second,
        tokenizer=nets.text.tokenizer,
        tokenizer_2=copy.deepcopy(nets.text.tokenizer),
        unet=nets.unet,
        scheduler=new_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.vae.register_to_config(_name_or_path=None)  # this machine's
    beside = out.with_name(out.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    pipeline.unet.half()
    pipeline.vae.half()
    pipeline.save_pretrained(beside, safe_serialization=True)
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out.name}: {size / 2**20:.1f} MiB")
