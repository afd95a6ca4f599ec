"""Noise schedules: every family obeys x_t = alpha_t x0 + sigma_t eps, so a schedule is two tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "v", "flow", "x0"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The mixture x_t = alpha_t x0 + sigma_t eps at every training timestep t in 0..T-1, 0 almost clean.

    Tensors called x are [B, ...]; times called t or s are integer tensors [B] (or a scalar tensor for the
    whole batch). Half-precision inputs are computed, and come back, in float32.
    """

    alpha: Tensor  # [T] share of data
    sigma: Tensor  # [T] share of noise
    model_time: Tensor  # [T] what the network is told instead of t
    prediction: Prediction  # which mixture of x0 and eps the network predicts

    def __len__(self) -> int:
        return len(self.alpha)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule with its tables on `device`."""
        tables = (self.alpha.to(device), self.sigma.to(device), self.model_time.to(device))
        return replace(self, alpha=tables[0], sigma=tables[1], model_time=tables[2])

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each [B, 1, ...] so that they multiply `like` [B, ...]."""
        index = t.reshape(-1)  # torch reads a 0-d index back from the device, a 1-d one it does not
        shape = (-1,) + (1,) * (like.ndim - 1)
        return self.alpha[index].reshape(shape), self.sigma[index].reshape(shape)

    def mix(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t eps."""
        alpha, sigma = self.at(t, x0)
        return alpha * x0 + sigma * eps

    def split(self, x_t: Tensor, pred: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) from x_t and the network's prediction: two linear equations solved.

        x_t  = alpha x0 + sigma eps
        pred =     a x0 +     b eps
        """
        alpha, sigma = self.at(t, x_t)
        a, b = MIXTURES[self.prediction](alpha, sigma)
        det = alpha * b - sigma * a
        x0 = (b * x_t - sigma * pred) / det
        eps = (alpha * pred - a * x_t) / det
        return x0, eps

    def jump(self, x_t: Tensor, pred: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s from x_t with one prediction: DDIM, rectified-flow Euler and EDM Euler are this line."""
        return self.mix(*self.split(x_t, pred, t), s)

    def renoise(self, x_s: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """x_t from x_s, s <= t, by adding fresh noise: the forward process between two times.

        Scaling x_s by r = alpha_t / alpha_s leaves noise of variance (r sigma_s)^2; `noise` supplies the
        rest.
        """
        alpha_s, sigma_s = self.at(s, x_s)
        alpha_t, sigma_t = self.at(t, x_s)
        r = alpha_t / alpha_s
        return r * x_s + (sigma_t**2 - (r * sigma_s) ** 2).clamp(min=0).sqrt() * noise


def vp(betas: Tensor, prediction: Prediction = "eps") -> NoiseSchedule:
    """Variance-preserving schedule (SD1.5, SDXL): alpha_t^2 = prod (1 - beta), sigma_t^2 = 1 - alpha_t^2."""
    abar = torch.cumprod(1 - betas.double(), dim=0)
    return _schedule(abar.sqrt(), (1 - abar).sqrt(), torch.arange(len(betas)), prediction)


def flow(shift: float = 1.0, *, steps: int = 1000, time_scale: float = 1.0) -> NoiseSchedule:
    """Rectified flow (FLUX, SD3): alpha = 1 - sigma, the prediction is the velocity eps - x0.

    `shift` moves the times towards noise, sigma = shift u / (1 + (shift - 1) u) for u = 1/steps .. 1 (Esser
    et al. 2024, eq. 23; FLUX's mu is log(shift)). The network is told sigma * time_scale: 1 for FLUX, 1000
    for SD3.
    """
    u = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    sigma = shift * u / (1 + (shift - 1) * u)
    return _schedule(1 - sigma, sigma, sigma * time_scale, "flow")


def edm(
    *, steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0
) -> NoiseSchedule:
    """EDM (SVD) in the coordinates x / sqrt(1 + sigma^2), where its preconditioning is v-prediction.

    Noise levels as in Karras et al. 2022, eq. 5, ascending; the network is told log(sigma) / 4.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    level = (sigma_min ** (1 / rho) + ramp * (sigma_max ** (1 / rho) - sigma_min ** (1 / rho))) ** rho
    norm = (1 + level**2).sqrt()
    return _schedule(1 / norm, level / norm, level.log() / 4, "v")


def make_betas(kind: BetaSchedule, start: float, end: float, steps: int = 1000) -> Tensor:
    """Noise added per training timestep, float64 [T]; `kind` by its name in diffusers' configurations."""
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        abar = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
        return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    raise ValueError(f"unknown beta schedule {kind!r}; known: linear, scaled_linear, squaredcos_cap_v2")


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas [T] whose last timestep is pure noise: sqrt(abar) shifted to end at 0, its first value kept.

    Lin et al. 2023, Common diffusion noise schedules and sample steps are flawed, algorithm 1.
    """
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])


def _schedule(alpha: Tensor, sigma: Tensor, model_time: Tensor, prediction: Prediction) -> NoiseSchedule:
    """Tables are computed in float64 and used in float32 (some devices have no float64)."""
    if prediction not in MIXTURES:
        raise ValueError(f"unknown prediction {prediction!r}; known: {', '.join(MIXTURES)}")
    return NoiseSchedule(alpha.float(), sigma.float(), model_time.float(), prediction)


# pred = a x0 + b eps, as (a, b) of alpha and sigma
MIXTURES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (-1.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
}
