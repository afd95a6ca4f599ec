"""How low targets lie: shares that can be counted by hand."""

import pytest

from tdd_cli.bundled.emoji.coverage import landings
from tdd_cli.core.targets import ctm, lcm, pcm
from tdd_cli.core.times import solver_grid

TIMES = solver_grid(20)  # 49, 99, ..., 999


def test_targets_at_or_below_where_a_sampler_lands():
    found = list(landings(TIMES, ctm(TIMES), 4, 0.2))
    assert [(t, s) for t, s, _ in found] == [(999, 599), (749, 399), (499, 199)]
    # of 0, 49, ..., t - 50, those at most s
    assert [share for *_, share in found] == pytest.approx([13 / 20, 9 / 15, 5 / 10], abs=0.01)


def test_without_noise_a_sampler_lands_on_its_next_stop():
    found = list(landings(TIMES, pcm(TIMES, phases=4), 4, 0.0))
    assert found == [(999, 749, 1.0), (749, 499, 1.0), (499, 249, 1.0)]
    assert {share for *_, share in landings(TIMES, lcm(TIMES), 8, 0.3)} == {1.0}
    assert {share for *_, share in landings(TIMES, pcm(TIMES, phases=4), 4, 0.2)} == {0.0}
