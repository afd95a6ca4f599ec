"""The style LoRA of docs/distil-your-own.md: what it shows, and that a student of it is measured with it."""

from dataclasses import replace

import pytest
import torch

from tdd_cli.bundled.emoji import STUDENT, compare, dataset
from tdd_cli.bundled.emoji.train import style
from tdd_cli.families import load_family
from tdd_cli.families.lora import lora_modules
from tdd_cli.generate import Sampling
from tdd_cli.inference import Inference
from tdd_cli.student import load_with_teacher, whole


def test_sepia_is_brown_on_white():
    black, white, red = -torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)
    red[:, 0] = 1
    assert style.sepia(white)[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert style.sepia(black)[0, :, 0, 0].tolist() == pytest.approx(style.INK)
    printed = style.sepia(red)[0, :, 0, 0]  # between the two, by its lightness alone
    share = (printed - torch.tensor(style.INK)) / (1 - torch.tensor(style.INK))
    assert share.tolist() == pytest.approx([style.LUMA[0]] * 3, abs=1e-5)


def test_the_style_trains_and_a_student_is_compared_with_its_styled_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "BATCH", 2)
    monkeypatch.setattr(style, "COPIES", 1)
    monkeypatch.setattr(style, "PICTURES", 4)
    monkeypatch.setattr(compare, "SLOW", 2)
    out = tmp_path / "sepia.safetensors"
    style.train(tmp_path, steps=2, out=out)
    prompts = (tmp_path / "prompts.txt").read_text("utf-8").splitlines()
    assert len(prompts) == len({row.name for row in dataset.load().rows})
    assert "a fox" in prompts

    made = Inference.load(STUDENT / "inference.json").model_copy(update={"styles": ((str(out), 1.0),)})
    family, _ = load_with_teacher(whole(made, STUDENT / "adapter.safetensors"), "cpu")
    assert lora_modules(family.net)
    plain = load_family("sdxl", made.model)
    four = replace(Sampling.of(made), steps=4)
    rows = list(compare.compare(family, made, [("fox", 0)], guidance=1.0, settings=[four], plain=plain))
    assert [row.label.split(",")[0] for row in rows] == ["teacher", "teacher", "base model", "student"]
    assert rows[0].distance == 0
    assert all(row.distance > 0 for row in rows[1:])
