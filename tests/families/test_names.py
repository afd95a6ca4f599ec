"""Original names: every weight of the real SD1.5 and SDXL UNets has one, and diffusers agrees."""

import pytest
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from real import UNETS, real_unet
from tdd_cli.families.names import original_name


@pytest.mark.parametrize(("family", "weights"), [("sd15", 686), ("sdxl", 1680)])
def test_diffusers_finds_every_weight_of_the_real_unet_by_its_original_name(family, weights):
    net = real_unet(family)
    names = {f"model.diffusion_model.{original_name(key, net.config)}": key for key in net.state_dict()}
    assert len(names) == weights
    found = convert_ldm_unet_checkpoint(names, dict(net.config))
    assert found == {key: key for key in net.state_dict()}


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("name", ["", "conv", "transformer_blocks.0.attn.to_q", "down_blocks.0.other.0.conv"])
def test_what_no_unet_has_has_no_name(family, name):
    with pytest.raises(ValueError, match="no name"):
        original_name(name, real_unet(family).config)
