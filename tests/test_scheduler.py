"""TDDScheduler: diffusers' interface, the core's arithmetic."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, TCDScheduler

from tdd_cli.core.clip import dynamic_threshold
from tdd_cli.core.sampler import ImageNoise, sample
from tdd_cli.core.times import early, equal, solver_grid
from tdd_cli.scheduler import TDDScheduler

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
GRID = solver_grid(250)


def rough(x, t):
    return torch.tanh(x.roll(1, -1) + torch.as_tensor(t).reshape(-1, 1, 1, 1) / 1000)


def run(scheduler, x, **kwargs):
    for t in scheduler.timesteps:
        x = scheduler.step(rough(x, t), t, x, **kwargs).prev_sample
    return x


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["equal", "early"])
@pytest.mark.parametrize("clip_steps", [0, 1])
@pytest.mark.parametrize("k", [4, 5, 8])
def test_scheduler_and_engine_make_the_same_picture(k, kind, eta, clip_steps):
    seeds = [3, 4]
    noise = ImageNoise(seeds)
    x = noise.draw((4, 8, 8))
    fresh = [noise.draw((4, 8, 8)) for _ in range(k - 1)]
    times = equal(GRID, k) if kind == "equal" else early(GRID, k, 4, 8)
    scheduler = TDDScheduler(schedule=kind, clip_x0_steps=clip_steps, **SD)
    schedule = scheduler.noise_schedule
    steps = sample(
        schedule, rough, x, times, eta=eta, noise=fresh, clip=dynamic_threshold, clip_steps=clip_steps
    )
    scheduler.set_timesteps(k)
    sources = generators(seeds)
    theirs = torch.cat([torch.randn(1, 4, 8, 8, generator=source) for source in sources])
    assert torch.equal(x, theirs)
    torch.testing.assert_close(run(scheduler, theirs, eta=eta, generator=sources), list(steps)[-1][0])


@pytest.mark.parametrize("eta", [0.0, 0.3])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_steps_are_those_of_diffusers_tcd_up_to_the_last(prediction, eta):
    ours = TDDScheduler(prediction_type=prediction, **SD)
    theirs = TCDScheduler(original_inference_steps=250, prediction_type=prediction, **SD)
    ours.set_timesteps(4)
    theirs.set_timesteps(4)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    x = y = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    (a,), (b,) = generators([1]), generators([1])
    for t in ours.timesteps[:-1]:
        x = ours.step(rough(x, t), t, x, eta=eta, generator=a).prev_sample
        y = theirs.step(rough(y, t), t, y, eta=eta, generator=b).prev_sample
        torch.testing.assert_close(x, y, atol=2e-4, rtol=2e-4)


def test_the_last_step_lands_exactly_on_x0():
    scheduler = TDDScheduler(**SD)
    x = torch.randn(1, 4, 8, 8)
    scheduler.set_timesteps(timesteps=[251])
    out = scheduler.step(rough(x, 251), 251, x, eta=0.3)
    assert torch.equal(out.prev_sample, out.pred_original_sample)


@pytest.mark.parametrize("other", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, TCDScheduler])
def test_from_config_of_any_vp_scheduler_takes_over_its_noise(other):
    source = other(beta_schedule="linear", beta_start=0.001, beta_end=0.02, prediction_type="v_prediction")
    scheduler = TDDScheduler.from_config(source.config, k_max=6)
    torch.testing.assert_close(
        scheduler.noise_schedule.alpha, source.alphas_cumprod.sqrt(), atol=1e-5, rtol=1e-5
    )
    assert scheduler.noise_schedule.prediction == "v"
    assert scheduler.config.k_max == 6


def test_save_and_load_round_trip(tmp_path):
    TDDScheduler(schedule="early", clip_x0_steps=2, teacher_timesteps=50, k_max=6).save_pretrained(tmp_path)
    loaded = TDDScheduler.from_pretrained(tmp_path)
    assert (loaded.config.schedule, loaded.config.clip_x0_steps, loaded.config.k_max) == ("early", 2, 6)
    assert loaded.config.teacher_timesteps == 50


def test_zero_terminal_snr_and_trained_betas_are_read():
    scheduler = TDDScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", **SD)
    assert scheduler.noise_schedule.alpha[-1].item() == pytest.approx(0, abs=1e-6)
    betas = [0.1, 0.2, 0.3, 0.4]
    scheduler = TDDScheduler(num_train_timesteps=4, trained_betas=betas, teacher_timesteps=4)
    assert scheduler.noise_schedule.alpha[1].item() == pytest.approx((0.9 * 0.8) ** 0.5)


@pytest.mark.parametrize("start", range(8))
def test_image_to_image_from_every_strength(start):
    scheduler = TDDScheduler(**SD)
    scheduler.set_timesteps(8)
    times = scheduler.timesteps[start:]
    scheduler.set_begin_index(start)
    clean = torch.full((2, 4, 8, 8), 0.5)
    x = scheduler.add_noise(clean, torch.randn(clean.shape), times[:1].repeat(2))
    for t in times:
        alpha, sigma = scheduler.noise_schedule.at(t, x)
        x = scheduler.step((x - alpha * 0.5) / sigma, t, x, eta=0.2).prev_sample
    torch.testing.assert_close(x, clean, atol=1e-4, rtol=0)


def test_a_loop_that_starts_in_the_middle_without_saying_so_finds_its_place():
    scheduler = TDDScheduler(**SD)
    scheduler.set_timesteps(8)
    x = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps[5:]:
        x = scheduler.step(rough(x, t), t, x).prev_sample
    assert scheduler.step_index == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_samples_come_back_as_they_came(dtype):
    scheduler = TDDScheduler(clip_x0_steps=1, **SD)
    x = torch.randn(1, 4, 8, 8).to(dtype)
    out = run(scheduler, x, eta=0.3)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert scheduler.add_noise(x, x, torch.tensor([500])).dtype == dtype


@pytest.mark.parametrize("k", range(1, 51))
def test_schedules_of_1_to_50_steps(k):
    scheduler = TDDScheduler(**SD)
    scheduler.set_timesteps(k)
    assert len(scheduler.timesteps) == k
    assert run(scheduler, torch.randn(1, 4, 4, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TDDScheduler(prediction_type="flow"), "prediction_type must be one of"),
        (lambda: TDDScheduler(schedule="late"), "must be 'equal' or 'early'"),
        (lambda: TDDScheduler().set_timesteps(0), "1..250 steps, got 0"),
        (lambda: TDDScheduler().set_timesteps(251), "got 251"),
        (lambda: TDDScheduler().set_timesteps(), "either num_inference_steps or timesteps"),
        (lambda: TDDScheduler().set_timesteps(timesteps=[100, 200]), "must descend"),
        (lambda: TDDScheduler().set_timesteps(timesteps=[]), "must descend"),
        (lambda: TDDScheduler().set_timesteps(timesteps=[1000, 2]), "must descend"),
        (lambda: TDDScheduler().step(torch.zeros(1), 998, torch.zeros(1)), "998 is not in the schedule"),
    ],
)
def test_bad_values_are_refused_with_what_was_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
