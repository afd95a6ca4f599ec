"""Offloading: the same picture, one part on the device at a time."""

import torch

from tdd_cli.families import load_family
from tdd_cli.families.offload import offload
from tdd_cli.generate import Sampling, draw


def test_an_offloaded_family_draws_the_same_picture_with_one_part_there_at_a_time(tiny_folders, monkeypatch):
    family = load_family("sdxl", str(tiny_folders["sdxl"]))
    sampling = Sampling(steps=2)
    expected = draw(family, ["a fox"], [0], sampling)
    parts = {id(part): name for name, part in family.pipeline().components.items()}
    there, most, moves = set(), [], []
    to = torch.nn.Module.to

    def moved(module, place):
        """A second device on a machine that has one: "meta" stands for it, and nothing really moves."""
        if id(module) in parts:
            (there.add if str(place) == "meta" else there.discard)(id(module))
            moves.append(parts[id(module)])
            most.append(len(there))
            return module
        return to(module, place)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr("tdd_cli.families.offload.send_to_device", lambda tensors, device: tensors)
    offload(family, "meta")
    moves.clear()
    assert torch.equal(draw(family, ["a fox"], [0], sampling), expected)
    assert list(dict.fromkeys(moves)) == ["text_encoder", "text_encoder_2", "unet", "vae"]
    assert max(most) == 1
    assert len(moves) == 7  # a part is fetched once and put back once, however many steps it makes
