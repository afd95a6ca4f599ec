"""The autoencoder: 64 x 64 pixels <-> 16 x 16 latents of 4 channels."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from tdd_cli.bundled.emoji import IMAGE_SIZE, dataset
from tdd_cli.bundled.emoji.train import loop

KL_WEIGHT = (
    3e-4  # the posterior's deviation then is about 2 % of the latents': a decoder that forgives small errors
)


def new() -> AutoencoderKL:
    """0.65 M parameters; no attention in the middle, and never half precision trouble."""
    return AutoencoderKL(
        sample_size=IMAGE_SIZE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error, a little absolute error for the edges, and a trace of KL: []."""
    posterior = vae.encode(images).latent_dist
    drawn = vae.decode(posterior.sample(generator=generator)).sample.float()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return F.mse_loss(drawn, images) + 0.05 * F.l1_loss(drawn, images) + KL_WEIGHT * kl.float()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Unscaled latents, without the posterior's noise: [N, 4, 16, 16]."""
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)])


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal to noise ratio of reconstructions over all pixels, dB."""
    drawn = torch.cat([vae.decode(latents).sample for latents in encode(vae, images).split(64)])
    error = F.mse_loss(drawn.clamp(-1, 1), images) / 4  # [-1, 1] -> [0, 1]
    return float(-10 * error.log10())


def measure_scale(vae: AutoencoderKL, images: Tensor) -> None:
    """Set scaling_factor so that latents have unit deviation."""
    vae.register_to_config(scaling_factor=1 / float(encode(vae, images).std()))


def train(folder: Path, *, minutes: float, batch: int = 32, rate: float = 2e-3, resume: bool = False) -> None:
    """Train for so many minutes; the result is folder/vae, a diffusers folder."""
    torch.manual_seed(0)
    images = dataset.load().images
    vae = new()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    for group in optimizer.param_groups:
        group["initial_lr"] = rate
    step, spent = 0, 0.0
    checkpoint = folder / "vae.pt"
    if resume:
        state = loop.restore(checkpoint)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    generator = torch.Generator().manual_seed(step)
    for share, used in loop.progress(minutes, spent):
        loop.set_rate(optimizer, loop.cosine(share, step, warmup=100))
        chosen = torch.randint(len(images), (batch,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(vae, dataset.displaced(images[chosen], generator), generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            some = images[:: len(images) // 128]
            record = {"step": step, "minutes": used, "loss": value.item(), "psnr": psnr(vae, some)}
            loop.log(folder / "vae.jsonl", **record)
            loop.save(
                checkpoint,
                {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": used},
            )
    measure_scale(vae, images)
    vae.save_pretrained(folder / "vae")
    loop.log(
        folder / "vae.jsonl",
        step=step,
        psnr_all=psnr(vae, images),
        scaling_factor=vae.config["scaling_factor"],
    )
