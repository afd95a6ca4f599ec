"""What "auto" means is decided by the hardware."""

import pytest
import torch

from tdd_cli.training.precision import PRECISIONS, precision


@pytest.mark.parametrize(
    ("able", "name"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "fp32")]
)
def test_auto_is_bf16_where_the_processor_computes_in_it(monkeypatch, able, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert precision("auto") == PRECISIONS[name]


@pytest.mark.parametrize("name", sorted(PRECISIONS))
def test_other_names_are_taken_at_their_word(name):
    assert precision(name) == PRECISIONS[name]
