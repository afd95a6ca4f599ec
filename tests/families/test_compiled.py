"""Compiling: refused with what is missing, and one wrapper around the same weights."""

import pytest
import torch

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.families import compiled
from tdd_cli.families.compiled import check_compiler, compile_net


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "C\\+\\+ compiler"), ("cuda", "triton")])
def test_what_is_missing_is_said(monkeypatch, device, wanted):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(MissingComponent, match=wanted):
        check_compiler(torch.device(device))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_there_is_enough(monkeypatch, device):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/bin/{name}" if name == "clang++" else None)
    monkeypatch.setattr(compiled, "find_spec", lambda name: "found")
    check_compiler(torch.device(device))


def test_sharded_networks_are_refused():
    with pytest.raises(UsageError, match="FSDP2"):
        check_compiler(torch.device("cpu"), sharded=True)


def test_a_compiled_network_has_the_same_weights():
    net = torch.nn.Linear(3, 2)
    made, x = compile_net(net), torch.ones(1, 3)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(made(x), net(x))
    assert next(made.parameters()) is net.weight
