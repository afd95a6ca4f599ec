"""Checkpoints: what comes back, what is pruned, and what is ignored."""

import pytest
import torch

from tdd_cli.errors import UsageError
from tdd_cli.training import checkpoint


def optimizer(seed=0):
    weight = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(seed)))
    made = torch.optim.AdamW([weight], 0.1)
    weight.square().sum().backward()
    made.step()
    return made


def test_what_was_saved_comes_back(tmp_path):
    saved = optimizer()
    student = {"a.lora_A.weight": torch.randn(2, 3)}
    states = {"student": student, "ema": {"a.lora_A.weight": torch.randn(2, 3)}}
    path = checkpoint.save(tmp_path, 20, states, saved, {"scaler": {"scale": 2.0}})
    fresh = optimizer(seed=1)
    step, loaded, extra = checkpoint.load(path, fresh)
    assert (step, extra) == (20, {"scaler": {"scale": 2.0}})
    assert loaded.keys() == states.keys()
    for name, state in states.items():
        assert torch.equal(loaded[name]["a.lora_A.weight"], state["a.lora_A.weight"])
    (ours, numbers), (theirs, expected) = checkpoint.optimizer_state(fresh), checkpoint.optimizer_state(saved)
    assert numbers == expected
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_newest_are_kept(tmp_path):
    for step in (5, 100, 20):
        checkpoint.save(tmp_path, step, {"student": {"a": torch.zeros(1)}}, optimizer(), {})
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.list_all(tmp_path)] == ["step-000020", "step-000100"]
    assert checkpoint.latest(tmp_path).name == "step-000100"


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".step-000010.partial-1").mkdir()
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


@pytest.mark.parametrize("file", ["state.json", "student.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_said(tmp_path, file):
    path = checkpoint.save(tmp_path, 1, {"student": {"a": torch.zeros(1)}}, optimizer(), {})
    (path / file).write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be read"):
        checkpoint.load(path, optimizer())
