"""Run folders: made once, and found again."""

import json
from datetime import datetime

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.inference import Inference
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Run, latest_run, recipe_hash, runs

RECIPE = load_recipe("emoji-4to8")


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "mine", RECIPE, name="emoji-4to8", command=["tdd", "distill"])


def test_a_new_run_says_what_was_asked_and_with_what(run):
    manifest = json.loads(run.manifest.read_text())
    assert run.load_recipe() == RECIPE
    assert manifest["recipe_sha256"] == recipe_hash(RECIPE)
    assert manifest["command"] == ["tdd", "distill"]
    assert manifest["versions"]["torch"]
    assert datetime.fromisoformat(manifest["started"]).tzinfo


def test_a_run_opens_again(run):
    assert Run.open(str(run.folder)) == run


def test_the_default_folder_is_named_after_recipe_and_time_and_never_taken_twice(tmp_path):
    first, second = (Run.create(None, RECIPE, name="emoji-4to8", root=tmp_path / "runs") for _ in range(2))
    assert first.folder != second.folder
    assert first.folder.name.startswith("emoji-4to8-20")


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        Run.create(tmp_path, RECIPE, name="x")
    with pytest.raises(UsageError, match="not an empty folder"):
        Run.create(tmp_path / "precious", RECIPE, name="x")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("kind", ["absent", "file", "empty"])
def test_what_is_no_run_is_said_so(tmp_path, kind):
    folder = tmp_path / kind
    if kind == "file":
        folder.write_text("x")
    elif kind == "empty":
        folder.mkdir()
    with pytest.raises(UsageError, match=r"does not exist|not a run"):
        Run.open(folder)


def test_the_latest_run_is_the_one_started_last(tmp_path):
    made = [Run.create(tmp_path / name, RECIPE, name=name) for name in ("b", "a", "c")]
    for day, one in zip((3, 2, 1), made, strict=True):
        one.manifest.write_text(json.dumps({"started": f"2026-01-0{day}T00:00:00+00:00"}))
    assert runs(tmp_path) == made
    assert latest_run(tmp_path) == made[0]
    assert latest_run(tmp_path, finished=True) is None
    Inference.of(RECIPE).save(made[2].inference)
    assert latest_run(tmp_path, finished=True) == made[2]
    assert latest_run(tmp_path / "none") is None


def test_a_broken_manifest_hides_no_other_run(tmp_path, run):
    other = Run.create(tmp_path / "other", RECIPE, name="x")
    other.manifest.write_text("{")
    assert runs(tmp_path)[0] == run


def test_the_log_is_one_record_a_line_and_survives_a_cut(run):
    run.log({"step": 1, "loss": 0.5})
    run.log({"step": 2, "note": "ä\n"})
    with run.log_file.open("a") as file:
        file.write('{"step": 3, "lo')
    assert list(run.records()) == [{"step": 1, "loss": 0.5}, {"step": 2, "note": "ä\n"}]
