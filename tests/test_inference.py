"""inference.json: a student's settings survive being saved, and what is no such file is refused."""

import json

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.inference import Inference
from tdd_cli.recipe import load_recipe
from tdd_cli.shipped import recipe_names


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
    file.write_text(json.dumps(Inference.of(load_recipe("emoji-4to8")).model_dump() | change))
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
