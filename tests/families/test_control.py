"""ControlNets: the pictures of diffusers' ControlNet pipelines, from tiny random ControlNets on disk."""

import diffusers
import pytest
import torch

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families import load_family
from tdd_cli.families.control import CONTROLS, control, open_control
from tdd_cli.generate import Edit, Sampling, draw
from tdd_cli.scheduler import TDDScheduler

PROMPTS, SEEDS = ["a fox", "the red sun"], [3, 4]
LED_BY = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def tiny_control(net, folder):
    """A random ControlNet for a UNet, whose residuals are not 0 as a fresh one's are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = diffusers.ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 16))
        for parameter in made.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["sdxl", "sd15"])
def model(request, tiny_folders, tmp_path_factory):
    """(family's name, its folder, a ControlNet's folder)."""
    path = tiny_folders[request.param]
    folder = tmp_path_factory.mktemp("control") / request.param
    return request.param, path, tiny_control(load_family(request.param, str(path)).net, folder)


def test_the_picture_is_that_of_diffusers_pipeline(model):
    name, path, folder = model
    sampling = Sampling(steps=4, guidance=2.0, eta=0.2)
    family = load_family(name, str(path))
    plain = draw(family, PROMPTS, SEEDS, sampling)
    kind = "StableDiffusionXLControlNetPipeline" if name == "sdxl" else "StableDiffusionControlNetPipeline"
    flags = {"add_watermarker": False} if name == "sdxl" else {"requires_safety_checker": False}
    parts = family.pipeline().components
    pipe = getattr(diffusers, kind)(**parts, controlnet=open_control(str(folder), name), **flags)
    pipe.scheduler = TDDScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS,
        image=LED_BY.repeat(2, 1, 1, 1),
        num_inference_steps=4,
        guidance_scale=2.0,
        eta=0.2,
        controlnet_conditioning_scale=0.7,
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images
    control(family, [open_control(str(folder), name)], [LED_BY], [0.7])
    ours = draw(family, PROMPTS, SEEDS, sampling)
    torch.testing.assert_close(ours, theirs * 2 - 1, atol=4e-4, rtol=0)
    assert (ours - plain).abs().max() > 0.01


def test_two_controls_add_up_and_go_with_a_given_picture(model):
    name, path, folder = model
    edit = Edit(torch.zeros(1, 3, 32, 32))
    sampling = Sampling(steps=4, strength=0.5)
    drawn = []
    for scales in ([1.0], [0.5, 0.5]):
        family = load_family(name, str(path))
        nets = [open_control(str(folder), name) for _ in scales]
        control(family, nets, [LED_BY] * len(scales), scales)
        drawn.append(draw(family, PROMPTS, SEEDS, sampling, edit=edit))
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=0)


def test_a_control_of_another_family_is_refused(tiny_folders, tmp_path):
    folder = tiny_control(load_family("sd15", str(tiny_folders["sd15"])).net, tmp_path / "c")
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    with pytest.raises(UsageError, match="made for another model than sdxl"):
        control(family, [open_control(str(folder), "sdxl")], [LED_BY], [1.0])


def test_unknown_kinds_and_unreachable_ones_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="no ControlNet 'cany' for sdxl") as caught:
        open_control("cany", "sdxl")
    assert all(kind in caught.value.hint for kind in CONTROLS["sdxl"])
    with pytest.raises(MissingComponent, match="controlnet-canny-sdxl"):
        open_control("canny", "sdxl")
    with pytest.raises(UsageError, match="has no weights"):
        open_control(str(tmp_path), "sdxl")
