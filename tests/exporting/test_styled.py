"""Students of a styled teacher: adapters stack on base and style in plain diffusers, models hold both."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from tdd_cli.errors import MissingComponent
from tdd_cli.exporting.export import open_student, write_student
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, lora_parameters, save_lora
from tdd_cli.inference import Inference
from tdd_cli.student import described, load, settings, whole


def adapter(model, path, seed):
    family = load_family("sdxl", str(model))
    add_lora(family.net, ["to_q", "conv1"], rank=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(family.net):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_lora(family.net, path, {})
    return path


@pytest.fixture
def student(tiny_folders, tmp_path):
    """(settings, weights) of a student whose teacher has style.safetensors at half strength."""
    model = tiny_folders["sdxl"]
    style = adapter(model, tmp_path / "style.safetensors", 1)
    weights = adapter(model, tmp_path / "adapter.safetensors", 2)
    inference = Inference(
        family="sdxl", model=str(model), styles=((str(style), 0.5),), method="tdd", teacher_grid=250, k_min=4,
        k_max=8, resolution=32, steps=4, guidance=1.0, eta=0.0, schedule="equal", clip_x0=0,
    )  # fmt: skip
    return inference, weights


def predict(net, family):
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return family.denoise(x, torch.tensor([500]), family.encode_prompts(["a fox"]), net=net)


@pytest.mark.parametrize("kind", ["safetensors", "kohya"])
def test_an_exported_adapter_stacks_on_base_and_style_in_diffusers(student, tmp_path, kind):
    inference, weights = student
    family = load(inference, weights)
    expected = predict(family.net, family)
    done = write_student(open_student(inference, weights), inference, tmp_path / "out", kind=kind)
    pipe = StableDiffusionXLPipeline.from_pretrained(inference.model)
    plain = load_family("sdxl", inference.model)
    assert not torch.allclose(predict(pipe.unet, plain), expected, atol=1e-2)
    pipe.load_lora_weights(str(done.weights), adapter_name="student")
    pipe.load_lora_weights(str(tmp_path / "style.safetensors"), adapter_name="style1")
    pipe.set_adapters(["student", "style1"], [1.0, 0.5])
    torch.testing.assert_close(predict(pipe.unet, plain), expected, atol=1e-4, rtol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`style.safetensors` at strength 0.5" in card
    assert 'pipe.set_adapters(["student", "style1"], [1.0, 0.5])' in card
    assert str(tmp_path) not in json.dumps(described(done.weights).styles)


def test_a_merged_model_holds_the_style(student, tmp_path):
    inference, weights = student
    family = load(inference, weights)
    done = write_student(open_student(inference, weights), inference, tmp_path / "out", kind="merged")
    assert done.reload.ok
    made = load_family("sdxl", str(done.weights))
    torch.testing.assert_close(predict(made.net, made), predict(family.net, family), atol=1e-4, rtol=1e-3)
    assert Inference.load(tmp_path / "out" / "inference.json").styles == ()


def test_a_style_is_found_beside_the_students_weights(student, tmp_path):
    inference, weights = student
    moved = inference.model_copy(update={"styles": (("elsewhere/style.safetensors", 0.5),)})
    assert whole(moved, weights).styles[0].path == tmp_path / "style.safetensors"
    gone = inference.model_copy(update={"styles": (("elsewhere/gone.safetensors", 0.5),)})
    with pytest.raises(MissingComponent, match=r"the adapter gone\.safetensors, which is not at elsewhere"):
        whole(gone, weights)
    assert settings(None, inference.model, "sdxl", weights)[0].styles == ()
