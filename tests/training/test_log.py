"""log.jsonl and the trackers beside it: what a record holds, and which skipped updates end a run."""

import math

import pytest
import torch

from tdd_cli.errors import MissingComponent, RecipeError, TddError
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run
from tdd_cli.training import extras, trackers
from tdd_cli.training.descent import Update
from tdd_cli.training.log import Log
from tdd_cli.training.loop import Step
from tdd_cli.training.trackers import check_trackers, numbers, tracking


class Alone:
    """An accelerator of one process."""

    num_processes, is_main_process = 1, True


class Fake:
    """A tracker that keeps what it is told."""

    def __init__(self, run):
        self.told = []
        self.run = run

    def start(self):
        self.told.append("start")

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step):
        self.told.append((step, values))

    def finish(self):
        self.told.append("finish")


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", load_recipe("emoji-4to8"), name="test")


def step(number, *, loss=1.0, norm=0.5, scale=None):
    given = None if scale is None else torch.tensor(scale)
    return Step(number, torch.tensor(loss), Update(torch.tensor(norm), 1e-3, given), [])


def flushed(run, steps, *, most=3, trackers=()):
    log = Log(run, Alone(), batch=4, max_bad_steps=most, trackers=trackers)
    for one in steps:
        log.add(one)
    log.flush()


def test_a_record_has_all_that_is_worth_a_curve(run):
    flushed(run, [step(1), step(2, loss=2.0)])
    first, second = run.records()
    assert second.keys() == {"step", "loss", "loss_ema", "grad_norm", "lr", "images_per_s", "peak_memory_mb"}
    assert (first["loss_ema"], second["loss_ema"]) == (1.0, pytest.approx(0.98 * 1.0 + 0.02 * 2.0))
    assert second["images_per_s"] > 0
    assert second["peak_memory_mb"] > 0


def test_a_scaler_that_finds_its_scale_is_nothing_bad(run):
    scales = [2.0**power for power in range(16, 0, -1)]  # torch's first scale, halved by each overflow
    flushed(run, [step(i + 1, norm=math.inf, scale=scale) for i, scale in enumerate(scales)])
    records = list(run.records())
    assert [record["loss_scale"] for record in records] == scales
    assert all(record["skipped"] and record["loss"] == 1.0 for record in records)


@pytest.mark.parametrize(
    "bad", [{"norm": math.nan, "scale": 1.0}, {"loss": math.nan, "scale": 65536.0}, {"norm": math.inf}]
)
def test_what_no_scale_can_mend_ends_the_run(run, bad):
    with pytest.raises(TddError, match="3 updates in a row were skipped, up to step 5"):
        flushed(run, [step(1), step(2, norm=math.inf, scale=4.0), *(step(i, **bad) for i in (3, 4, 5))])


def test_bad_steps_are_counted_on_by_a_resumed_run(run):
    finding = step(2, norm=math.inf, scale=8.0)
    flushed(run, [step(1, loss=math.nan), finding, step(3, loss=math.nan)])
    with pytest.raises(TddError, match="3 updates in a row"):
        flushed(run, [step(4, loss=math.nan)])


def test_torchs_scaler_gives_its_scale_and_skips_what_overflows():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([weight], 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    seen = []
    for _ in range(3):
        scaler.scale((4 * weight).sum()).backward()
        seen.append(scaler.scale(torch.ones(())).item())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert seen == [2.0**127, 2.0**126, 2.0**125]
    assert weight[0].item() == pytest.approx(1 - 0.4)  # 4 * 2^125 is the first that float32 holds


def test_trackers_get_what_the_log_gets_and_are_closed(run, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Fake)
    with tracking(["tensorboard"], run, load_recipe("emoji-4to8")) as [fake]:
        flushed(run, [step(1), step(2, loss=math.nan)], trackers=[fake])
    start, settings, first, second, finish = fake.told
    assert (start, finish) == ("start", "finish")
    assert settings["train.lr"] == load_recipe("emoji-4to8").train.lr
    assert settings["target.reach"] == "null"
    logged = list(run.records())
    assert first == (1, numbers(logged[0]))
    assert first[1]["loss"] == 1.0
    assert "loss" not in second[1]
    assert "skipped" not in second[1]


def test_trackers_are_closed_when_a_run_fails(run, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Fake)
    with pytest.raises(TddError), tracking(["wandb"], run, load_recipe("emoji-4to8")) as opened:
        raise TddError("failed")
    assert opened[0].told[-1] == "finish"


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_tracker_is_named_with_the_extra_that_brings_it(monkeypatch, name):
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    with pytest.raises(MissingComponent, match=f"train.trackers={name} needs the package {name}") as refused:
        check_trackers([name])
    assert "tdd-cli[track]" in refused.value.hint
    check_trackers([])


def test_tensorboard_has_the_curves_of_a_run(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking(["tensorboard"], run, load_recipe("emoji-4to8")) as opened:
        flushed(run, [step(1), step(2, loss=2.0)], trackers=opened)
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]
    assert set(events.Tags()["scalars"]) >= {"grad_norm", "lr", "images_per_s", "peak_memory_mb"}


def test_an_unknown_tracker_is_refused():
    with pytest.raises(RecipeError, match=r"train.trackers\[0\] must be one of tensorboard, wandb, trackio"):
        load_recipe("emoji-4to8", ["train.trackers=[tensorbord]"])
    assert load_recipe("emoji-4to8", ["train.trackers=[wandb]"]).train.trackers == ("wandb",)


def test_wandb_asks_nobody_for_a_key(run, monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert trackers.TRACKERS["wandb"](run).init_kwargs["mode"] == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert trackers.TRACKERS["wandb"](run).init_kwargs["mode"] is None
