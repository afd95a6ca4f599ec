"""x0 clipping: keeps the first, coarse estimates of x0 from over-saturating at high guidance."""

from __future__ import annotations

from torch import Tensor


def dynamic_threshold(x0: Tensor, *, ratio: float = 0.995, low: float = 1.0, high: float = 1.0) -> Tensor:
    """x0 [B, ...] brought into +-low, each sample on its own.

    The limit s is the `ratio` quantile of |x0|, but at least `low` and at most `high`; x0 is cut at +-s, then
    scaled by low / s. low = high cuts at a fixed limit. Dynamic thresholding, Saharia et al. 2022 (Imagen),
    section 2.3, where x0 are pixels and low is 1; for latents low is how far clean latents reach.
    """
    limit = x0.abs().flatten(1).float().quantile(ratio, dim=1).clamp(low, high)  # [B]
    limit = limit.reshape(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-limit, limit) * (low / limit)
