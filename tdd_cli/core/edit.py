"""Starting from a picture, or keeping part of one: what image-to-image and inpainting add to the sampler.

Image-to-image is the last part of a schedule, from schedule.mix(x0, noise, times[0]) instead of pure noise.
"""

from __future__ import annotations

from torch import Tensor

from tdd_cli.core.sampler import Hold
from tdd_cli.core.schedule import NoiseSchedule


def last_part(times: Tensor, strength: float) -> Tensor:
    """The last floor(strength K) of K times: 1 redraws all of the picture, 1 / K only its last step.

    The rounding is that of diffusers' pipelines. Raises ValueError where no step is left.
    """
    steps = int(len(times) * strength)
    if not 0 < strength <= 1 or steps == 0:
        raise ValueError(f"strength must be 1/{len(times)}..1 for {len(times)} steps, got {strength:g}")
    return times[len(times) - steps :]


def keep_outside(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, mask: Tensor, times: Tensor) -> Hold:
    """After every step x = mask x + (1 - mask) x0_t, the given picture x0 noised to where the step landed.

    x0 and noise are [B, ...], mask broadcasts to them and is 1 where the picture is redrawn. What inpainting
    pipelines do with a network that was not made for inpainting (RePaint, Lugmayr et al. 2022, without its
    repetitions).
    """
    given = [schedule.mix(x0, noise, t) for t in times[1:]] + [x0]  # on the device before the first step
    return lambda x, i: given[i].lerp(x, mask)
