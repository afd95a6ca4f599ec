"""Relays: who draws which jumps of a picture, and that a relay among equals changes nothing."""

import pytest
import torch

from tdd_cli.bundled.emoji import relay
from tdd_cli.evaluation.networks import load_network
from tdd_cli.evaluation.protocol import choose
from tdd_cli.evaluation.sets import open_set
from tdd_cli.families import load_family
from tdd_cli.sampling import Sampling


class Counted:
    """A family that remembers at which times its network was asked."""

    def __init__(self, family):
        self.family, self.asked = family, []

    def __getattr__(self, name):
        return getattr(self.family, name)

    def denoise(self, x_t, t, cond):
        self.asked.append(int(t[0]))
        return self.family.denoise(x_t, t, cond)


@pytest.fixture(scope="module")
def family():
    return load_family("sdxl", "bundled:emoji")


@pytest.mark.parametrize("jumps", [1, 3, 4])
def test_the_first_draws_its_jumps_and_the_other_the_rest(family, jumps):
    first, then = Counted(family), Counted(family)
    sampling, rules, network = Sampling(steps=4), choose(open_set("emoji"), 2), load_network("emoji")
    found = relay.features(first, then, rules, sampling, jumps, network)
    times = sampling.times().tolist()
    assert (first.asked, then.asked) == (times[:jumps], times[jumps:])
    torch.testing.assert_close(found, relay.features(family, family, rules, sampling, 4, network))


def test_every_way_to_hand_over_once():
    assert relay.relays(2) == [("A", 2), ("B", 2), ("A", 1), ("B", 1)]
    assert len(relay.relays(4)) == len(set(relay.relays(4))) == 8
