"""TDDScheduler: the core's sampler behind diffusers' scheduler interface, for any pipeline of a VP model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from tdd_cli.core.clip import dynamic_threshold
from tdd_cli.core.sampler import Step, plan
from tdd_cli.core.schedule import BetaSchedule, NoiseSchedule, Prediction, make_betas, vp, zero_terminal_snr
from tdd_cli.core.times import early, equal, explicit, solver_grid

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' names for what a VP network predicts, and ours."""


def schedule_of(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule in a diffusers scheduler's configuration; ValueError if there is none."""
    if "beta_start" not in config or config.get("use_flow_sigmas"):
        raise ValueError(f"{config.get('_class_name', 'it')} has no betas")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    else:
        steps = config["num_train_timesteps"]
        betas = make_betas(config["beta_schedule"], config["beta_start"], config["beta_end"], steps)
    if config.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr with epsilon: noise says nothing of x0 at the last timestep"
            )
        betas = zero_terminal_snr(betas)
    return vp(betas, PREDICTIONS[prediction])


@dataclass
class TDDSchedulerOutput(BaseOutput):
    """What one step returns: the sample at the next timestep, and the x0 it was made from (clipped if
    asked).
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class TDDScheduler(SchedulerMixin, ConfigMixin):
    """Few-step sampler for students distilled with TDD, LCM, PCM or CTM.

        pipe.scheduler = TDDScheduler.from_config(pipe.scheduler.config)
        pipe(prompt, num_inference_steps=4, guidance_scale=1.7, eta=0.2)

    The first seven settings describe the noise and are read from the pipeline's own scheduler.
    `teacher_timesteps` is the number of points of the solver grid that the student was distilled on,
    k_min..k_max the numbers of steps; `schedule` is "equal" or "early" (non-equidistant). `clip_x0_steps` is
    the number of first steps whose x0 estimate is clipped to `sample_min_value`..`sample_max_value` (see
    core.clip.dynamic_threshold: low, high).
    """

    _compatibles: ClassVar[list[str]] = [scheduler.name for scheduler in KarrasDiffusionSchedulers]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        teacher_timesteps: int = 250,
        k_min: int = 4,
        k_max: int = 8,
        schedule: Literal["equal", "early"] = "equal",
        clip_x0_steps: int = 0,
        dynamic_thresholding_ratio: float = 0.995,
        sample_min_value: float = 1.0,
        sample_max_value: float = 1.0,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {prediction_type!r}"
            )
        if schedule not in ("equal", "early"):
            raise ValueError(f"schedule must be 'equal' or 'early', got {schedule!r}")
        self.noise_schedule: NoiseSchedule = schedule_of(self.config)
        self._clip = partial(
            dynamic_threshold, ratio=dynamic_thresholding_ratio, low=sample_min_value, high=sample_max_value
        )
        self._clip_steps = clip_x0_steps  # the configuration is slow to ask
        self._plans: dict[tuple[tuple[int, ...], float, torch.device], list[Step]] = {}
        self._begin_index: int | None = None
        self.set_timesteps(k_min)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the schedule: a number of steps, or the descending timesteps themselves."""
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("give either num_inference_steps or timesteps")
        if timesteps is not None:
            times = explicit([int(t) for t in timesteps], self.config.num_train_timesteps)
        else:
            times = self._named(int(num_inference_steps or 0))
        self.num_inference_steps = len(times)
        self.timesteps = times.to(device or "cpu")
        self._host_times = tuple(times.tolist())  # so that no step asks the device where it is
        self._step_index: int | None = None
        self._begin_index = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The index of the first timestep a pipeline will use (image-to-image starts in the middle)."""
        self._begin_index = begin_index

    @property
    def step_index(self) -> int | None:
        """Index of the next step, None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first step, None where the pipeline has not said."""
        return self._begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int | None = None) -> Tensor:
        """The sample itself: VP networks take x_t as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        eta: float = 0.0,
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
    ) -> TDDSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of core.sampler.sample: to the next timestep, or from the last one to x0.

        `eta` in 0..1 is the share by which the step undershoots before noise from `generator` is added back.
        """
        index = self._index_of(timestep) if self._step_index is None else self._step_index
        last = index + 1 == len(self._host_times)
        noise = self._noise(model_output, generator) if eta > 0 and not last else None
        step = self._plan(eta, sample.device)[index]
        clip = self._clip if index < self._clip_steps else None
        x_next, x0 = step(sample.float(), model_output.float(), noise, clip)
        self._step_index = index + 1
        x_next, x0 = x_next.to(sample.dtype), x0.to(sample.dtype)
        return TDDSchedulerOutput(x_next, x0) if return_dict else (x_next, x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of clean samples [B, ...] at integer timesteps [B]."""
        schedule = self.noise_schedule.to(original_samples.device)
        times = timesteps.to(original_samples.device).long()
        return schedule.mix(original_samples, noise, times).to(original_samples.dtype)

    def __len__(self) -> int:
        return len(self.noise_schedule)

    def _named(self, k: int) -> Tensor:
        """The k-step schedule of the configured kind, descending [k]."""
        grid = solver_grid(self.config.teacher_timesteps, self.config.num_train_timesteps)
        if self.config.schedule == "early":
            return early(grid, k, self.config.k_min, self.config.k_max)
        return equal(grid, k)

    def _index_of(self, timestep: Tensor | int) -> int:
        """Where a loop that starts at `timestep` starts in the schedule."""
        if self._begin_index is not None:
            return self._begin_index
        if int(timestep) not in self._host_times:
            raise ValueError(f"timestep {int(timestep)} is not in the schedule {list(self._host_times)}")
        return self._host_times.index(int(timestep))

    def _plan(self, eta: float, device: torch.device) -> list[Step]:
        """The steps' coefficients, made once for a schedule, eta and device."""
        key = (self._host_times, eta, device)
        if key not in self._plans:
            times = torch.tensor(self._host_times, device=device)
            self._plans[key] = plan(self.noise_schedule.to(device), times, eta)
        return self._plans[key]

    @staticmethod
    def _noise(like: Tensor, generator: Generator | list[Generator] | None) -> Tensor:
        return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
