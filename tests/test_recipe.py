"""Recipes: what is accepted, what is refused and with which words, and that nothing else ever escapes."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tdd_cli import yaml_lines
from tdd_cli.errors import RecipeError
from tdd_cli.recipe import (
    KEYS,
    Recipe,
    dump_recipe,
    find_recipe,
    load_recipe,
    longest_jump,
    parse_recipe,
)
from tdd_cli.recipe_keys import nearest
from tdd_cli.shipped import recipe_names

SHIPPED = recipe_names()
FIXED = {
    "grid": "250",
    "guidance": "3.0",
    "global_batch": "64",
    "device_batch": "64",
    "rank": "32",
    "steps": "300",
    "lr": "5.0e-4",
    "warmup": "20",
}


def a_recipe() -> str:
    """The default recipe with the values that the tests below name, whatever those of the shipped one are."""
    text = find_recipe("emoji-4to8").read_text(encoding="utf-8")
    for key, value in FIXED.items():
        text = re.sub(rf"(?m)^  {key}: \S+", f"  {key}: {value}", text, count=1)
    return text


GOOD = a_recipe()


def refusal(text: str, *overrides: str) -> str:
    """The message with which `text` is refused."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml", overrides)
    return caught.value.message


def with_line(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_survives_being_written(name):
    recipe = load_recipe(name)
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_starts_with_its_command_and_has_every_section(name):
    text = find_recipe(name).read_text(encoding="utf-8")
    assert f"tdd distill --recipe {name}" in text.partition("description:")[0]
    places = yaml_lines.load(text, str)[1]
    assert set(Recipe.model_fields) <= {path[0] for path in places if path}


@pytest.mark.parametrize("name", ["sdxl-4to8", "sd15-4to8"])
def test_every_line_of_a_large_recipe_is_published_or_says_why_not(name):
    header, _, sections = find_recipe(name).read_text(encoding="utf-8").partition("description:")
    keys = [line for line in sections.splitlines() if re.match(r"  \w+:", line)]
    assert len(keys) > 40
    assert [line for line in keys if not re.search(r"  ?# (published|ours: \w)", line)] == []
    for what in ("Hardware: ", "Memory, estimated: ", "Time, estimated: ", "Loss, estimated: "):
        assert f"\n# {what}" in header


@pytest.mark.parametrize("rule", ["lcm", "pcm", "ctm"])
def test_the_relatives_differ_from_tdd_in_target_learning_rate_and_sampling_only(rule):
    ours, theirs = load_recipe("emoji-4to8").model_dump(), load_recipe(f"emoji-{rule}").model_dump()
    ours["train"]["lr"] = theirs["train"]["lr"]
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing <= {"description", "target", "sample"}
    assert theirs["target"]["rule"] == rule


@pytest.mark.parametrize("grid", [50, 100, 250, 1000])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_the_longest_jump_is_the_cores(grid, k):
    times = pytest.importorskip("tdd_cli.core.times")
    assert longest_jump(grid, k) == times.largest_gap(times.solver_grid(grid), k)


@pytest.mark.parametrize("rule", ["tdd", "pcm", "lcm", "ctm"])
def test_a_target_rules_keys_are_its_functions_parameters(rule):
    targets = pytest.importorskip("tdd_cli.core.targets")
    parameters = list(inspect.signature(targets.TARGETS[rule]).parameters.values())[1:]
    keys = {key.path: key.default for key in KEYS if key.variant == rule and key.path != "target.rule"}
    assert {f"target.{one.name}": one.default for one in parameters} == keys


def test_every_key_is_documented():
    assert [key.path for key in KEYS if not key.description] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "steps: 300",
            "steps: abc",
            "train.steps must be an integer >= 1, got 'abc'",
        ),
        ("steps: 300", "steps: 0", "train.steps must be an integer >= 1, got 0"),
        ("steps: 300", "steps: 1e3", "train.steps must be an integer >= 1, got 1000.0"),
        ("steps: 300", "steps: true", "train.steps must be an integer >= 1, got true"),
        ("steps: 300", "steps:", "train.steps must be an integer >= 1, got nothing"),
        ("flip: true", "flip: yes", "data.flip must be true or false, got 'yes'"),
        (
            "resolution: 64",
            "resolution: 60",
            "data.resolution must be an integer >= 8 and a multiple of 8, got 60",
        ),
        (
            "precision: auto",
            "precision: fp8",
            "train.precision must be one of auto, fp32, fp16, bf16, got 'fp8'",
        ),
        ("lr: 5.0e-4", "lr: .nan", "train.lr must be a number > 0 and <= 1, got nan"),
        ("rule: tdd", "rule: dmd", "target.rule must be one of tdd, pcm, lcm, ctm, got 'dmd'"),
        ("rule: tdd", "rule: [tdd]", "target.rule must be one of tdd, pcm, lcm, ctm, got a list"),
        ("  rule: tdd", "  # rule", "target.rule is missing; it must be one of tdd, pcm, lcm, ctm"),
        ("rule: tdd", "rule: pcm", "target.k_min belongs to rule tdd; pcm takes phases"),
        ("rank: 32", "rnak: 32", "unknown key 'student.rnak'; did you mean 'student.rank'?"),
        ("checkpoint:", "checkpiont:", "unknown key 'checkpiont'; did you mean 'checkpoint'?"),
        ("prompts: [a fox,", "prompts: [3,", "preview.prompts[0] must be text, got 3"),
        ("prompts: [a fox,", "prompts: [{a: b},", "preview.prompts[0] must be text, got a mapping"),
        ("family: sdxl", "family: sdlx", "model.family must be one of sd15, sdxl, got 'sdlx'"),
        ("keep: 2", "keep: 2\n  keep: 3", "'keep' is given twice"),
        ("keep: 2", "2: keep", "a key must be a word"),
        ("keep: 2", "keep: &two 2\n  every: *two", "aliases"),
        ("keep: 2", "keep: !!python/object:os.system {}", "not valid YAML|must be an integer"),
        ("keep: 2", "\tkeep: 2", "not valid YAML"),
        ("keep: 2", "keep: [2", "not valid YAML"),
        ("k_min: 4 ", "k_min: 9 ", "target.k_max must be from k_min (9) to teacher.grid (250), got 8"),
        ("reach: null", "reach: 100", "target.reach must be at least 252"),
        ("grid: 250", "grid: 300", "teacher.grid must divide 1000"),
        ("device_batch: 64", "device_batch: 48", "train.device_batch must divide global_batch (64), got 48"),
        ("warmup: 20", "warmup: 300", "train.warmup must be less than train.steps (300), got 300"),
        ("clip_x0: 0", "clip_x0: 5", "sample.clip_x0 must be at most sample.steps (4), got 5"),
        ("clip_low: 3.0", "clip_low: 0", "sample.clip_low must be a number > 0, got 0"),
    ],
)
def test_a_mistake_is_named_with_its_line(old, new, message):
    found = refusal(with_line(old, new))
    assert any(part in found for part in message.split("|")), found
    assert found.startswith("my.yaml:")


def test_a_mistake_stands_at_its_line():
    line = next(i for i, text in enumerate(GOOD.splitlines(), 1) if "global_batch" in text)
    assert refusal(with_line("global_batch: 64", "global_batch: -1")).startswith(f"my.yaml:{line}: ")


def test_all_mistakes_are_listed_at_once():
    found = refusal(
        with_line("rank: 32", "rank: x").replace("keep: 2", "keep: 0").replace("lr: 5.0e-4", "lr: 2")
    )
    assert len(found.splitlines()) == 3


def test_a_file_full_of_mistakes_still_fits_one_screen():
    found = refusal(GOOD + "".join(f"wrong{i}: 1\n" for i in range(100)))
    assert len(found.splitlines()) == 16
    assert found.endswith("... and 85 more")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("# only a comment\n", "is empty"), ("- a\n- b\n", "mapping"), ("text", "mapping")],
)
def test_what_is_no_recipe_at_all_is_said_so(text, message):
    assert message in refusal(text)


def test_deep_nesting_is_refused():
    assert "nested too deeply" in refusal("a: " + "[" * 3000)


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("5.0e-4", 5e-4), (".5", 0.5), ("1E-3", 1e-3)])
def test_numbers_are_read_as_people_write_them(text, value):
    assert parse_recipe(with_line("lr: 5.0e-4", f"lr: {text}"), "x").train.lr == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("20_000", 20000), ("no", "no"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30")],
)
def test_yaml_has_no_surprises(text, value):
    assert yaml_lines.load(text, str)[0] == value


def test_overrides_are_typed_and_split_at_the_first_equals_sign():
    recipe = load_recipe("emoji-4to8", ["train.lr=1e-3", "model.path=a=b", "preview.prompts=[a cat, a dog]"])
    assert (recipe.train.lr, recipe.model.path, recipe.preview.prompts) == (1e-3, "a=b", ("a cat", "a dog"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rnak=3", "unknown key 'lora.rnak' in --set; did you mean 'student.rank'?"),
        ("qqqq=3", "unknown key 'qqqq' in --set"),
        ("train.lr", "has no value"),
        ("=3", "unknown key ''"),
        ("train.steps=abc", "--set train.steps=abc: train.steps must be an integer >= 1, got 'abc'"),
        ("train.steps=", "got nothing"),
        ("train.steps=[1", "--set train.steps=[1: not valid YAML"),
        ("target.phases=3", "--set target.phases=3: target.phases belongs to rule pcm"),
        ("train=3", "--set train=3: train must be a mapping of keys (steps, global_batch"),
        ("train.compile=true", "train.compile needs student.merge=false"),
        ("target.rule=dmd", "--set target.rule=dmd: target.rule must be one of"),
    ],
)
def test_a_wrong_override_is_refused_by_name(override, message):
    assert message in refusal(GOOD, override)


@pytest.mark.parametrize("rule", ["lcm", "pcm", "ctm", "tdd"])
def test_an_override_of_the_rule_drops_only_the_former_rules_keys(rule):
    assert (
        load_recipe("emoji-4to8", [f"target.rule={rule}"]).target
        == load_recipe("emoji-4to8" if rule == "tdd" else f"emoji-{rule}").target
    )


def test_overrides_of_a_rule_and_its_keys_work_in_any_order():
    assert load_recipe("emoji-4to8", ["target.phases=2", "target.rule=pcm"]).target.model_dump() == {
        "rule": "pcm",
        "phases": 2,
    }


def test_choosing_another_rule_hides_no_mistake():
    text = with_line("k_min: 4 ", "k_mim: 4 ")
    assert "unknown key 'target.k_mim'" in refusal(text, "target.rule=pcm")
    assert "target.k_min belongs to rule tdd" in refusal(GOOD, "target.rule=pcm", "target.k_min=3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"description: caf\xe9\n", "my.yaml:1: not UTF-8"),
        (b"a: b\nc: \x00\n", "my.yaml:2: not valid YAML"),
        (b" " * 1_000_001, "not a recipe"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, content, message):
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(file)


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "my.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "my.yaml") == parse_recipe(GOOD, "my.yaml")


def test_missing_files_and_folders_are_refused_with_a_suggestion(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe("sdxl-4to9")
    assert "Did you mean 'sdxl-4to8'?" in str(caught.value.hint)
    (tmp_path / "recipe.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match="is a folder") as caught:
        load_recipe(tmp_path)
    assert "recipe.yaml" in str(caught.value.hint)


def test_the_nearest_name_is_found_by_its_last_part():
    assert nearest("lora.rnak", [key.path for key in KEYS]) == "student.rank"
    assert nearest("zzzzzz", [key.path for key in KEYS]) is None


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_a_recipe_error(text):
    with pytest.raises(RecipeError):
        parse_recipe(text, "x")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=200)
@given(path=st.sampled_from(sorted({key.path for key in KEYS} | set(Recipe.model_fields))), value=TREES)
def test_no_value_anywhere_raises_anything_but_a_recipe_error(path, value):
    data = yaml.safe_load(GOOD)
    section, _, key = path.partition(".")
    if key:
        data[section][key] = value
    else:
        data[section] = value
    try:
        recipe = parse_recipe(yaml_lines.dump(data), "x")
    except RecipeError:
        return
    assert parse_recipe(dump_recipe(recipe), "x") == recipe


@settings(max_examples=100)
@given(st.sampled_from(sorted({key.path for key in KEYS})), st.text(max_size=20))
def test_no_override_raises_anything_but_a_recipe_error(path, text):
    try:
        recipe = load_recipe("emoji-4to8", [f"{path}={text}"])
    except RecipeError:
        return
    assert parse_recipe(dump_recipe(recipe), "x") == recipe


@given(
    description=st.text(min_size=1, max_size=60),
    prompts=st.lists(st.text(max_size=30), max_size=4),
    lr=st.floats(1e-12, 0.99),
    alpha=st.none() | st.floats(1e-6, 1e6),
    guidance=st.floats(1, 100),
    seed=st.integers(0, 2**32 - 1),
    flip=st.booleans(),
)
def test_any_valid_recipe_survives_being_written(description, prompts, lr, alpha, guidance, seed, flip):
    data = load_recipe("emoji-4to8").model_dump()
    data["description"] = description
    data["preview"]["prompts"] = prompts
    data["train"] |= {"lr": lr, "seed": seed}
    data["student"]["alpha"] = alpha
    data["teacher"]["guidance"] = guidance
    data["data"]["flip"] = flip
    recipe = Recipe.model_validate(data)
    assert parse_recipe(dump_recipe(recipe), "x") == recipe


@pytest.mark.parametrize(
    "text", ["\x85", "a\x85 b", "\u2028", "\u2029", "a\r\nb", "\ufeff", "\t", " a ", "1e3", "null", "\x7f"]
)
def test_unusual_text_is_read_back_as_it_was_written(text):
    assert yaml_lines.load(yaml_lines.dump({"key": [text]}), str)[0] == {"key": [text]}


def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("emoji-4to8").target.rule == "tdd"
    assert Path(find_recipe("emoji-4to8")).is_absolute()
