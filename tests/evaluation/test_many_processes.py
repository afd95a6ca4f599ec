"""tdd eval under `accelerate launch`: two processes draw what one draws, and one of them reports."""

import json
from functools import partial

import pytest
from accelerate.state import AcceleratorState

from processes import finished, needs_fork, start
from sets_on_disk import picture_folder
from tdd_cli.cli import app
from tdd_cli.evaluation import collect, subjects

pytestmark = needs_fork


def evaluate(model, photos, out):
    AcceleratorState._reset_state(True)
    words = [
        "eval", "--model", str(model), "--set", f"folder:{photos}", "--metric", "fid,kid,clip,teacher",
        "--features", "emoji", "--steps", "1", "--guidance", "1", "--teacher-steps", "2",
        "--teacher-guidance", "1", "--out", str(out),
    ]  # fmt: skip
    app(words, standalone_mode=False)


def measured(out):
    """The figures of an evaluation by name."""
    (entry,) = json.loads((out / "eval.json").read_text())["entries"]
    return {name: figure["value"] for name, figure in entry["figures"].items()}


def test_two_processes_measure_what_one_does_and_go_on(tiny_folders, tmp_path, monkeypatch, capfd):
    """The first time one of them fails halfway; then only what is missing is drawn, by both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = picture_folder(tmp_path / "photos", collect.SHARD + 6)
    real, drawn = subjects.generate, tmp_path / "drawn"
    drawn.mkdir()

    def generate(family, prompts, seeds, sampling, **settings):
        if len(seeds) < collect.SHARD and sampling.steps == 1 and failing:
            raise RuntimeError("a broken GPU")
        yield from real(family, prompts, seeds, sampling, **settings)
        (drawn / f"{sampling.steps}-{seeds[0]}-{failing}").touch()

    monkeypatch.setattr(subjects, "generate", generate)
    two = partial(evaluate, tiny_folders["sdxl"], photos, tmp_path / "two")
    failing = True
    assert finished(start(two)) == [1, 1]
    shown = capfd.readouterr().err
    assert "a broken GPU" in shown
    assert "another process of this run has ended" in shown
    failing = False
    assert finished(start(two)) == [0, 0]
    assert {path.name for path in drawn.iterdir()} == {"2-0-True", "2-64-True", "1-0-True", "1-64-False"}
    assert capfd.readouterr().out.count("FID") == 1
    evaluate(tiny_folders["sdxl"], photos, tmp_path / "one")
    assert measured(tmp_path / "two") == pytest.approx(measured(tmp_path / "one"), rel=1e-6)
    assert (tmp_path / "two" / "report.html").is_file()
