"""Schedules: analytic answers, and lock-step parity with diffusers' samplers."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from tdd_cli.core.schedule import MIXTURES, edm, flow, make_betas, vp

SD_BETAS = make_betas("scaled_linear", 0.00085, 0.012)
SCHEDULES = {
    "vp eps": vp(SD_BETAS),
    "vp v": vp(SD_BETAS, "v"),
    "vp x0": vp(SD_BETAS, "x0"),
    "flow": flow(3.0),
    "edm": edm(),
}


def network(x, t):
    """Some smooth function of both arguments, standing in for a trained network."""
    return torch.sin(3 * x.roll(1, -1) + t.reshape(-1, *(1,) * (x.ndim - 1)) / 500)


@pytest.fixture
def x():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCHEDULES)
def test_split_inverts_the_mixture_that_the_network_predicts(name, x):
    schedule, t = SCHEDULES[name], torch.tensor([20, 500, 980])
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    alpha, sigma = schedule.at(t, x)
    a, b = MIXTURES[schedule.prediction](alpha, sigma)
    x0_hat, eps_hat = schedule.split(schedule.mix(x, eps, t), a * x + b * eps, t)
    tolerance = 2e-3 if name == "edm" else 5e-5  # EDM's sigma of 600 leaves 1/600 of x0 in x_t
    torch.testing.assert_close(x0_hat, x, atol=tolerance, rtol=0)
    torch.testing.assert_close(eps_hat, eps, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_jump_to_the_same_time_is_the_identity(name, x):
    t = torch.tensor([1, 400, 999])
    torch.testing.assert_close(SCHEDULES[name].jump(x, network(x, t), t, t), x, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_renoise_has_the_variance_of_its_time(name):
    schedule, s, t = SCHEDULES[name], torch.tensor([300]), torch.tensor([420])
    generator = torch.Generator().manual_seed(0)
    eps, noise = torch.randn(2, 1, 400_000, generator=generator)
    x_t = schedule.renoise(schedule.mix(torch.full_like(eps, 2.0), eps, s), noise, s, t)
    alpha, sigma = schedule.at(t, x_t)
    assert x_t.mean().item() == pytest.approx(2 * alpha.item(), abs=4e-3)
    assert x_t.std().item() == pytest.approx(sigma.item(), rel=5e-3)


def test_renoise_to_the_same_time_adds_nothing(x):
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(SCHEDULES["vp eps"].renoise(x, 10 * x, t, t), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, x):
    t = torch.tensor([3, 500, 999])
    half = x.to(dtype)
    assert SCHEDULES["vp eps"].jump(half, half, t, t - 3).dtype == torch.float32


def test_a_scalar_time_serves_the_whole_batch(x):
    schedule = SCHEDULES["vp v"]
    one, many = torch.tensor(700), torch.tensor([700] * 3)
    assert torch.equal(schedule.jump(x, x, one, one - 200), schedule.jump(x, x, many, many - 200))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_vp_jump_matches_diffusers_ddim(prediction, x):
    ddim = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
        clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading",
    )  # fmt: skip
    ddim.set_timesteps(10)
    schedule = vp(SD_BETAS, {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}[prediction])
    ours = theirs = x
    for t in ddim.timesteps:
        theirs = ddim.step(network(theirs, t), t, theirs).prev_sample
        s = (t - 100).clamp(min=0)
        ours = schedule.jump(ours, network(ours, t), t, s)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_jump_matches_diffusers_flow_match_euler(shift, x):
    euler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = flow(shift, time_scale=1000)
    torch.testing.assert_close(schedule.sigma.flip(0), euler.sigmas)
    times = torch.tensor([999, 749, 499, 249])
    sigmas = ((times + 1) / 1000).tolist()  # diffusers applies the shift itself
    euler.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(schedule.model_time[times], euler.timesteps)
    ours = theirs = x
    for i, t in enumerate(times):
        theirs = euler.step(network(theirs, t), euler.timesteps[i], theirs).prev_sample
        pred = network(ours, t)
        if i + 1 < len(times):
            ours = schedule.jump(ours, pred, t, times[i + 1])
        else:
            ours, _ = schedule.split(ours, pred, t)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_flux_at_1024_px_visits_the_published_sigmas():
    schedule = flow(torch.tensor(1.15).exp().item())
    sigma = schedule.sigma[torch.tensor([999, 749, 499, 249])]
    torch.testing.assert_close(sigma, torch.tensor([1, 0.9045, 0.7595, 0.5128]), atol=1e-4, rtol=0)


def test_edm_jump_matches_diffusers_euler_with_v_prediction_and_karras_sigmas(x):
    euler = EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
        timestep_type="continuous", timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    euler.set_timesteps(12)
    schedule = edm(steps=12)
    torch.testing.assert_close(schedule.model_time.flip(0), euler.timesteps, atol=1e-4, rtol=1e-4)
    norm = (1 + euler.sigmas**2).sqrt()
    ours = x
    theirs = x * norm[0]
    for i, t in enumerate(range(11, 0, -1)):
        time = torch.tensor(t)
        scaled = euler.scale_model_input(theirs, euler.timesteps[i])
        theirs = euler.step(network(scaled, time), euler.timesteps[i], theirs).prev_sample
        ours = schedule.jump(ours, network(ours, time), time, time - 1)
        torch.testing.assert_close(ours * norm[i + 1], theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(kind):
    theirs = DDIMScheduler(beta_schedule=kind, beta_start=0.00085, beta_end=0.012).betas
    torch.testing.assert_close(make_betas(kind, 0.00085, 0.012).float(), theirs, atol=1e-6, rtol=1e-4)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown beta schedule 'cosine'"):
        make_betas("cosine", 0.1, 0.2)
    with pytest.raises(ValueError, match="unknown prediction 'noise'"):
        vp(SD_BETAS, "noise")
