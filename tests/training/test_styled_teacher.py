"""A teacher made of a base model and adapters: what is trained, remembered, and drawn with."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tdd_cli.errors import RecipeError
from tdd_cli.families import load_family
from tdd_cli.families.lora import add_lora, save_lora
from tdd_cli.inference import Inference
from tdd_cli.recipe import load_recipe
from tdd_cli.student import Adapter, source
from tdd_cli.training.assemble import assemble


@pytest.fixture
def style(tiny_folders, tmp_path):
    """An adapter file that changes the network, and the network's prediction with it at strength 0.5."""
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    add_lora(family.net, ("to_q", "conv1"), rank=2)
    with torch.no_grad():
        for name, weight in family.net.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    save_lora(family.net, tmp_path / "style.safetensors", {})
    family.net.set_adapters("default", 0.5)
    return tmp_path / "style.safetensors", predict(family, family.denoise)


def predict(family, network):
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(x, torch.tensor([999, 3]), family.encode_prompts(["a fox", "the sun"]))


def test_the_teacher_has_the_style_and_the_student_begins_there(tiny_folders, style):
    AcceleratorState._reset_state(True)
    path, expected = style
    changes = [
        f"model.path={tiny_folders['sdxl']}",
        "data.resolution=32",
        "preview.prompts=[]",
        "train.precision=fp32",
    ]
    parts = assemble(load_recipe("emoji-4to8", [*changes, "model.loras=[]"]))
    assert not torch.allclose(predict(parts.family, parts.pair.teacher), expected, atol=1e-3)
    recipe = load_recipe("emoji-4to8", [*changes, f"model.loras=['{path}:0.5']"])
    parts = assemble(recipe)
    torch.testing.assert_close(predict(parts.family, parts.pair.teacher), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(predict(parts.family, parts.pair.student), expected, rtol=1e-3, atol=1e-4)


def test_a_run_remembers_its_styles_and_is_drawn_with_them(tmp_path, monkeypatch):
    recipe = load_recipe("emoji-4to8", ["model.loras=[a.safetensors, 'b.safetensors:0.8']"])
    Inference.of(recipe).save(tmp_path / "inference.json")
    for name in ("adapter", "a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = source(loras=[Adapter(tmp_path / "adapter.safetensors")])
    assert found.styles == (Adapter(Path("a.safetensors"), 1.0), Adapter(Path("b.safetensors"), 0.8))


def test_an_empty_name_is_refused():
    with pytest.raises(RecipeError, match=r"model\.loras must be FILE or FILE:SCALE"):
        load_recipe("emoji-4to8", ["model.loras=['']"])
