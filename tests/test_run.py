"""Run folders: made once, found again, and no file is ever half-written."""

import json
from datetime import datetime

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.files import replacing, write_atomic
from tdd_cli.recipe import load_recipe
from tdd_cli.run import Inference, Run, latest_run, recipe_hash, runs
from tdd_cli.shipped import recipe_names

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


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipes_sampling_settings_survive_saving(tmp_path, name):
    settings = Inference.of(load_recipe(name))
    settings.save(tmp_path / "inference.json")
    assert Inference.load(tmp_path / "inference.json") == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "4"}, "steps"),
        ({"extra": 1}, "extra"),
        ({"k_min": 9}, "k_min <= k_max"),
        ({"eta": 2}, "eta"),
    ],
)
def test_unusable_sampling_settings_are_refused(tmp_path, change, message):
    file = tmp_path / "inference.json"
    file.write_text(json.dumps(Inference.of(RECIPE).model_dump() | change))
    with pytest.raises(UsageError, match=message):
        Inference.load(file)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_damaged_sampling_settings_are_refused(tmp_path, content):
    file = tmp_path / "inference.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="inference.json"):
        Inference.load(file)
    with pytest.raises(UsageError, match="does not exist"):
        Inference.load(tmp_path / "none.json")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert file.read_text() == "old"
    write_atomic(file, b"new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    with pytest.raises(FileNotFoundError), replacing(file):
        pass
    assert file.read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "step-1"
    for text in ("old", "new"):
        with replacing(folder) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / "state").write_text(text)
    assert (folder / "deep" / "state").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_the_partial_file_keeps_its_suffix(tmp_path):
    with replacing(tmp_path / "picture.png") as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"x")
