"""FSDP2 in two processes on one machine: the losses of one process, whole files, exact resume."""

from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from processes import PROMPTS, check_same_training, distil, finished, needs_fork, outcome, start

pytestmark = needs_fork
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
SHORT = (*PROMPTS, "train.steps=2", "checkpoint.every=1", "preview.every=0")


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"a fox {i}\n" for i in range(7)))


@pytest.mark.parametrize(
    "student", [("student.merge=false",), ("student.kind=full", "train.ema=0.9")], ids=["lora", "full"]
)
def test_sharded_students_train_as_one_process_does_and_resume(tiny_folders, tmp_path, prompts, student):
    run = partial(distil, tiny_folders["sdxl"])
    changes = (*SHORT, *student)
    assert finished(start(partial(run, tmp_path / "whole", *changes), **SHARDED)) == [0, 0]
    first = partial(run, tmp_path / "parts", *changes, options=("--max-steps", "1"))
    assert finished(start(first, **SHARDED)) == [0, 0]
    assert finished(start(partial(run, tmp_path / "parts", *changes), **SHARDED)) == [0, 0]
    run(tmp_path / "one", *changes)
    check_same_training(tmp_path / "whole", tmp_path / "one")
    (log, weights), (expected_log, expected) = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert log == expected_log
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    for name in ("student", "optimizer"):
        ours, theirs = (
            load_file(tmp_path / kind / "checkpoints" / "step-000002" / f"{name}.safetensors")
            for kind in ("whole", "one")
        )
        assert {key: value.shape for key, value in ours.items()} == {
            key: value.shape for key, value in theirs.items()
        }
    assert len(list((tmp_path / "whole" / "samples").iterdir())) == 1
    if student[0] == "student.kind=full":
        UNet2DConditionModel.from_pretrained(tmp_path / "whole" / "student")
