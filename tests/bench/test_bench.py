"""The benchmarks that no other test runs: that they run, and what they promise."""

import pytest
import torch
from accelerate.state import AcceleratorState
from estimate import CASES, in_a_process
from gpu import gpu, picture_flops
from plans import CASES as CASES_OF_PLANS
from plans import plans
from published import choose
from shapes import SMALL

from tdd_cli.core.targets import nearby
from tdd_cli.core.times import solver_grid, stops


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_the_gpu_bench_runs_in_small_without_one_and_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = list(gpu(small=True))
    assert "no GPU here" in lines[0]
    rows = [line for line in lines if line.startswith(("| here", "| published"))]
    assert len(rows) == 8  # two ways, with and without checkpointing, two batches
    assert all(float(row.split("|")[4]) >= 0 for row in rows)  # a rate, not "does not fit"


def test_what_a_dry_run_foresees_is_what_a_run_then_takes():
    changes = CASES["batch 8"]
    foreseen, taken = (in_a_process(what, changes) for what in ("plan", "run"))
    assert foreseen == pytest.approx(taken, rel=0.25)  # 20 % is asked for, 11 % measured, and machines differ


@pytest.mark.slow
def test_what_the_large_recipes_take_is_foreseen_without_weights(monkeypatch):
    monkeypatch.setattr("plans.CASES", {"device_batch 1": CASES_OF_PLANS["device_batch 1"]})
    *_, line = plans(["sd15-4to8"])
    weights, _, gradients, optimizer, activations, total = (float(cell) for cell in line.split("|")[2:-1])
    assert 1.6 < weights < 2.2  # 0.86 G parameters in 16 bits, and an adapter of rank 64 in 32
    assert optimizer == pytest.approx(2 * gradients, abs=0.1)  # AdamW's two moments
    assert total >= weights + activations


def test_the_guided_half_is_counted():
    none, all_of_them = (picture_flops(SMALL, rank=4, guided=share) for share in (0.0, 1.0))
    assert (
        1 / 7 < (all_of_them - none) / none < 1 / 3
    )  # one pass more than teacher, target, forward, backward


def test_published_targets_are_drawn_from_the_same_candidates():
    times = solver_grid(250)
    targets, t_prev = stops(times, 4, 8), torch.tensor([747, 503, 995, 0]).repeat(50)
    first, last = nearby(targets, t_prev, 260)
    chosen = choose(targets, t_prev, reach=260, eta=0.0)
    assert ((targets[first] <= chosen) & (chosen <= targets[last])).all()
