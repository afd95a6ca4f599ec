"""The teacher's network and, with it, the text encoders: v-prediction on latents of displaced pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tdd_cli.bundled.emoji import captions, dataset, evaluate, retrieval
from tdd_cli.bundled.emoji.model import Text, denoise, load_text, new_scheduler, new_unet
from tdd_cli.bundled.emoji.train import loop, vae

COPIES = 12  # displaced copies of every picture whose latents are kept
DROP_TEXT = 0.1
RATE = 1e-3
EMA_DECAY = 0.999
SNR_CAP = 5.0  # the most that a step's error in x0 may weigh
LOG_STEPS = 200
CHECKPOINT_MINUTES = 3.0
MEASURE_MINUTES = 8.0


class Nets(NamedTuple):
    """All that learns."""

    unet: UNet2DConditionModel
    text: Text

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "first": self.text.first, "second": self.text.second}

    def parameters(self) -> list[nn.Parameter]:
        return [weight for module in self.modules().values() for weight in module.parameters()]

    def state(self) -> dict[str, Any]:
        return {name: module.state_dict() for name, module in self.modules().items()}

    def load(self, state: dict[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state[name])


def new_nets(folder: Path) -> Nets:
    """An untrained network, and the text encoders as their own training left them."""
    return Nets(new_unet(), load_text(folder / "text"))


def make_latents(folder: Path) -> None:
    """Write folder/latents.pt, once: scaled latents of displaced copies, [COPIES, N, 4, 16, 16]."""
    if (folder / "latents.pt").exists():
        return
    images = dataset.load().images
    generator = torch.Generator().manual_seed(0)
    autoencoder = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.autocast("cpu", torch.bfloat16):
        made = [vae.encode(autoencoder, dataset.displaced(images, generator)) for _ in range(COPIES)]
    loop.save(
        folder / "latents.pt", {"latents": torch.stack(made).float() * autoencoder.config["scaling_factor"]}
    )


def weights(alphas_cumprod: Tensor) -> Tensor:
    """A v-loss's weight at every time: its error in x0 weighs min(1 + SNR, cap). [T]"""
    snr_plus_1 = 1 / (1 - alphas_cumprod)
    return snr_plus_1.clamp(max=SNR_CAP) / snr_plus_1


def loss(
    nets: Nets, x0: Tensor, tokens: Tensor, alphas_cumprod: Tensor, generator: torch.Generator
) -> Tensor:
    """Weighted squared error of v at times spread evenly over the batch: []."""
    count = len(x0)
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (spread * len(alphas_cumprod)).long()
    alpha, sigma = (part.sqrt()[:, None, None, None] for part in (alphas_cumprod[t], 1 - alphas_cumprod[t]))
    eps = torch.randn(x0.shape, generator=generator)
    keep = torch.rand(count, generator=generator) >= DROP_TEXT
    with (
        torch.autocast("cpu", torch.bfloat16),
        sdpa_kernel(SDPBackend.MATH),
    ):  # its backward is a third faster here
        v = denoise(nets.unet, alpha * x0 + sigma * eps, t, nets.text.encode(tokens).where(keep))
    error = (v.float() - (alpha * eps - sigma * x0)).pow(2).mean(dim=(1, 2, 3))
    return (weights(alphas_cumprod)[t] * error).mean()


@torch.no_grad()
def follow(average: Iterable[Tensor], current: Iterable[Tensor], step: int) -> None:
    """Exponential moving average, quick at first."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), [weight.detach() for weight in current], 1 - decay)


def quick_score(nets: Nets, autoencoder: AutoencoderKL, among: retrieval.Gallery) -> dict[str, float]:
    """Retrieval of half the evaluation's prompts in 20 steps: seconds, to see that training gets anywhere."""
    pairs = dataset.evaluation_split()[::2]
    images = evaluate.draw(nets.unet, nets.text, autoencoder, pairs, steps=20, guidance=3.0)
    top1, top5 = retrieval.score(images, [name for name, _ in pairs], among)
    return {"top1": top1, "top5": top5}


@dataclass
class Training:
    """All that a checkpoint holds."""

    nets: Nets
    average: Nets  # exponential moving average of nets: the result
    optimizer: torch.optim.Optimizer
    step: int = 0
    spent: float = 0.0  # minutes of the present budget
    past: float = 0.0  # minutes of earlier budgets
    rate: float = 1.0  # the present budget's highest learning rate, as a share of RATE

    def save(self, path: Path) -> None:
        states = {
            "nets": self.nets.state(),
            "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        loop.save(path, states | {name: getattr(self, name) for name in ("step", "spent", "past", "rate")})

    def load(self, path: Path) -> None:
        state = loop.restore(path)
        self.nets.load(state["nets"])
        self.average.load(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent, self.past, self.rate = (
            state[name] for name in ("step", "spent", "past", "rate")
        )

    def rewarm(self, rate: float = 0.5) -> None:
        """A new budget: from the average's weights, the learning rate at half its height."""
        self.nets.load(self.average.state())
        self.past, self.spent, self.rate = self.past + self.spent, 0.0, rate

    def update(self, value: Tensor, factor: float) -> None:
        """One step of the optimiser and of the average."""
        weights = self.nets.parameters()
        loop.set_rate(self.optimizer, self.rate * factor)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        loop.average([weight.grad for weight in weights if weight.grad is not None])
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average.parameters(), weights, self.step)


def new_training(folder: Path) -> Training:
    """The start: untrained network, text encoders as their own training left them."""
    torch.manual_seed(0)
    nets = new_nets(folder)
    groups = [{"params": nets.parameters(), "initial_lr": RATE}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return Training(nets, copy.deepcopy(nets), optimizer)


def train(
    folder: Path, *, minutes: float, batch: int = 64, resume: bool = False, rewarm: bool = False
) -> None:
    """Train for so many minutes in all; folder/unet.pt then holds the result.

    resume goes on where the checkpoint stands; rewarm begins a new budget with the checkpoint's average.
    """
    worker, count = loop.workers()
    rows = dataset.load().rows
    if worker == 0:
        make_latents(folder)
    loop.average([torch.zeros(1)])  # the others wait for it
    cached: Tensor = loop.restore(folder / "latents.pt")["latents"]  # [COPIES, N, 4, 16, 16]
    alphas_cumprod = new_scheduler().alphas_cumprod
    training = new_training(folder)
    if resume or rewarm:
        training.load(folder / "unet.pt")
    if rewarm:
        training.rewarm()
    generator = torch.Generator().manual_seed(training.step * count + worker)
    watch = Watch(folder, training.spent)
    for share, used in loop.progress(minutes, training.spent):
        training.spent = used
        which = torch.randint(len(rows), (batch // count,), generator=generator)
        copies = torch.randint(len(cached), which.shape, generator=generator)
        tokens = training.nets.text.tokens([captions.caption(rows[i], generator) for i in which])
        value = loss(training.nets, cached[copies, which], tokens, alphas_cumprod, generator)
        training.update(value, loop.cosine(share, training.step, warmup=300))
        if worker == 0:
            watch.look(training, value.item())
    if worker == 0:
        watch.finish(training)


class Watch:
    """Logs, saves and measures now and then."""

    def __init__(self, folder: Path, spent: float) -> None:
        self.folder = folder
        self.saved = self.measured = spent
        self.losses: list[float] = []
        self.among = retrieval.gallery(dataset.load())
        self.vae = AutoencoderKL.from_pretrained(folder / "vae")

    def look(self, training: Training, value: float) -> None:
        """After every step."""
        self.losses.append(value)
        if training.step % LOG_STEPS == 0:
            self.log(training, loss=sum(self.losses) / len(self.losses))
            self.losses.clear()
        if training.spent - self.measured > MEASURE_MINUTES:
            self.log(training, **quick_score(training.average, self.vae, self.among))
            self.measured = training.spent
        if training.spent - self.saved > CHECKPOINT_MINUTES:
            training.save(self.folder / "unet.pt")
            self.saved = training.spent

    def finish(self, training: Training) -> None:
        """After the last step."""
        training.save(self.folder / "unet.pt")
        self.log(training, **quick_score(training.average, self.vae, self.among))

    def log(self, training: Training, **figures: float) -> None:
        loop.log(
            self.folder / "unet.jsonl", step=training.step, minutes=training.past + training.spent, **figures
        )
