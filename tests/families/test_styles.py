"""Style adapters: multiplied into the weights as diffusers does, text encoders included."""

import pytest
import torch
from safetensors.torch import save_file

from tdd_cli.errors import UsageError
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, lora_modules, lora_parameters, save_lora
from tdd_cli.families.styles import fuse_style

X, T = torch.ones(1, 4, 16, 16), torch.tensor([500])


@pytest.fixture
def style(tiny_folders, tmp_path):
    """A LoRA file of the tiny SDXL, and what its network predicts with it at strength 1."""
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, ["to_q", "conv1"], rank=2)
    with torch.no_grad():
        for parameter in lora_parameters(family.net):
            parameter.copy_(torch.full_like(parameter, 0.05))
    save_lora(family.net, tmp_path / "style.safetensors", {})
    return tmp_path / "style.safetensors", predicted(family)


def predicted(family):
    with torch.no_grad():
        return family.denoise(X, T, family.encode_prompts(["a fox"]))


def test_a_style_is_in_the_weights_at_its_strength(tiny_folders, style):
    path, expected = style
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    bare = predicted(family)
    fuse_style(family, path)
    assert lora_modules(family.net) == []
    torch.testing.assert_close(predicted(family), expected, atol=1e-5, rtol=1e-4)
    fuse_style(family, path, -1.0)  # and out again
    torch.testing.assert_close(predicted(family), bare, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("prefix", "part"), [("lora_te1", "text_encoder"), ("lora_te2", "text_encoder_2")])
def test_text_encoders_in_kohyas_names_are_adapted_too(tiny_folders, tmp_path, prefix, part):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    encoder = family.pipe.components[part]
    layers = getattr(encoder, "text_model", encoder).encoder.layers  # newer transformers have no text_model
    before = layers[0].mlp.fc1.weight.clone()
    down, up = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    flat = f"{prefix}_text_model_encoder_layers_0_mlp_fc1"
    state = {
        f"{flat}.lora_down.weight": down,
        f"{flat}.lora_up.weight": up,
        f"{flat}.alpha": torch.tensor(1.0),
    }
    save_file(state, tmp_path / "te.safetensors")
    fuse_style(family, tmp_path / "te.safetensors", 0.5)
    torch.testing.assert_close(layers[0].mlp.fc1.weight, before + 0.5 * 0.5 * up @ down)


def test_a_style_for_another_model_is_refused(tiny_folders, style):
    family = load_family("sd15", str(tiny_folders["sd15"]))
    with pytest.raises(UsageError, match="fits this model in"):
        fuse_style(family, style[0])


def test_pickles_and_absent_files_are_refused(tiny_folders, tmp_path):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    with pytest.raises(UsageError, match="is a pickle"):
        fuse_style(family, tmp_path / "style.pt")
    with pytest.raises(UsageError, match="no LoRA file at"):
        fuse_style(family, tmp_path / "style.safetensors")
