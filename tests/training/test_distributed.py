"""Two processes on one machine: the losses, the log and the result of one, whatever happens to them."""

import os
import platform
import random
import signal
import time
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from processes import PROMPTS, check_same_training, distil, finished, needs_fork, outcome, start
from sets_on_disk import encoded, write_tar
from tdd_cli.errors import TddError
from tdd_cli.files import replacing
from tdd_cli.training import loop
from tdd_cli.training.preview import Previews

pytestmark = needs_fork


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """Seven prompts, a number that neither two processes nor a batch of four divides, beside the runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"a fox {i}\n" for i in range(7)))


@pytest.mark.parametrize(
    "sizes",
    [(), ("train.global_batch=6", "train.device_batch=2")],  # each process takes three: two, then one
    ids=["even parts", "uneven parts"],
)
def test_two_processes_train_as_one_does(tiny_folders, tmp_path, prompts, sizes):
    two = partial(distil, tiny_folders["sdxl"], tmp_path / "two", *PROMPTS, *sizes)
    assert finished(start(two)) == [0, 0]
    distil(tiny_folders["sdxl"], tmp_path / "one", *PROMPTS, *sizes)
    check_same_training(tmp_path / "two", tmp_path / "one")
    assert len(list((tmp_path / "two" / "samples").iterdir())) == 2


def test_uneven_data_with_a_damaged_picture_end_cleanly(tiny_folders, tmp_path):
    """Five files for two processes: epochs end within batches, and what one process leaves out is counted."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (40, 48), (50 * i, 0, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a fox {i}")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    changes = (f"data.source={folder}", "data.cache=none", "preview.prompts=[]")
    two = partial(distil, tiny_folders["sdxl"], tmp_path / "two", *changes)
    assert finished(start(two)) == [0, 0]
    distil(tiny_folders["sdxl"], tmp_path / "one", *changes)
    check_same_training(tmp_path / "two", tmp_path / "one")
    assert any(record.get("left_out") for record in outcome(tmp_path / "two")[0])


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_two_processes_stream_what_one_does(tiny_folders, tmp_path, monkeypatch, kind):
    """Several files read by two workers in each process; one of the files is damaged."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(3):
        pictures = [encoded((40 * i, 80 * n, 0), (40, 36)) for i in range(5)]
        if kind == "tars":
            files = {f"{i}.png": one for i, one in enumerate(pictures)}
            write_tar(folder / f"{n}.tar", files | {f"{i}.txt": b"a fox" for i in range(5)})
        else:
            rows = {"image": [{"bytes": one, "path": None} for one in pictures], "text": ["a fox"] * 5}
            pq.write_table(pa.table(rows), folder / f"{n}.parquet", row_group_size=2)
    broken = sorted(folder.iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:2000])
    source = folder if kind == "tars" else folder / "*.parquet"
    changes = (
        f"data.source={source}", f"data.streaming={'false' if kind == 'tars' else 'true'}", "data.workers=2",
        "data.cache=none", "preview.prompts=[]",
    )  # fmt: skip
    two = partial(distil, tiny_folders["sdxl"], tmp_path / "two", *changes)
    assert finished(start(two)) == [0, 0]
    distil(tiny_folders["sdxl"], tmp_path / "one", *changes)
    check_same_training(tmp_path / "two", tmp_path / "one")


def test_runs_killed_at_any_moment_end_as_if_they_never_were(tiny_folders, tmp_path, prompts):
    """Every process is killed, or one, and then, as the launcher does it, the others."""
    changes = (*PROMPTS, "checkpoint.every=1", "train.steps=6", "preview.every=3")
    began = time.monotonic()
    whole = partial(distil, tiny_folders["sdxl"], tmp_path / "whole", *changes)
    assert finished(start(whole)) == [0, 0]
    length = time.monotonic() - began
    draw = random.Random(3)
    parts = partial(distil, tiny_folders["sdxl"], tmp_path / "parts", *changes, "data.cache_folder=another")
    for _ in range(4):
        children = start(parts)
        time.sleep(draw.uniform(0.2, 0.9) * length)
        for rank in draw.sample(range(2), k=draw.choice([1, 2])):
            os.kill(children[rank], signal.SIGKILL)
            time.sleep(draw.uniform(0, 0.05))
        finished(children, seconds=0.5)
    assert finished(start(parts)) == [0, 0]
    (log, weights), (expected_log, expected) = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert log == expected_log
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_a_process_that_fails_ends_the_others(tiny_folders, tmp_path, prompts, monkeypatch, capfd):
    """The one says what happened, the other that it is not its own fault."""

    def failing(*arguments, of=loop.micro_loss, **more):
        if os.environ["RANK"] == "1" and failing.calls == 3:
            raise TddError("the disk is full")
        failing.calls += 1
        return of(*arguments, **more)

    failing.calls = 0
    monkeypatch.setattr(loop, "micro_loss", failing)
    two = partial(distil, tiny_folders["sdxl"], tmp_path / "two", *PROMPTS, "preview.prompts=[]")
    assert finished(start(two)) == [1, 1]
    shown = capfd.readouterr().err
    assert "the disk is full" in shown
    assert "another process of this run has ended" in shown


def test_while_one_process_draws_previews_the_others_go_on(tiny_folders, tmp_path, prompts, monkeypatch):
    """The preview after step 4 waits for what the other process does in step 5."""
    seen = tmp_path / "seen"

    def drawing(self, step, *, of=Previews.draw):
        deadline = time.monotonic() + 300
        while step == 4 and not seen.is_file():
            assert time.monotonic() < deadline, "the other process waits for the preview"
            time.sleep(0.01)
        return of(self, step)

    def noted(*arguments, of=loop.micro_loss, **more):
        noted.calls += 1
        if os.environ["RANK"] == "1" and noted.calls == 9:  # two a step
            seen.touch()
        return of(*arguments, **more)

    noted.calls = 0
    monkeypatch.setattr(Previews, "draw", drawing)
    monkeypatch.setattr(loop, "micro_loss", noted)
    two = partial(distil, tiny_folders["sdxl"], tmp_path / "two", *PROMPTS)
    assert finished(start(two)) == [0, 0]
    assert [path.name for path in sorted((tmp_path / "two" / "samples").iterdir())] == [
        "step-000004.png",
        "step-000008.png",
    ]


def test_containers_with_equal_process_ids_keep_their_files_apart(tmp_path, monkeypatch):
    with replacing(tmp_path / "key.json") as ours:
        ours.write_text("1")
        monkeypatch.setattr(platform, "node", lambda: "another")
        with replacing(tmp_path / "key.json") as theirs:
            theirs.write_text("2")
        assert ours.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]
