import pytest
import torch
from transformers import CLIPTokenizer

from tdd_cli.bundled.emoji import STYLES, TEACHER, captions
from tdd_cli.bundled.emoji.model import LENGTH
from tdd_cli.bundled.emoji.train.text import new_tokenizer

FOX = captions.Row("fox", ("animal", "face"), "animals", "fluent-flat")
ANT = captions.Row("ant", (), "animals", "noto")


def many(row, count=1000):
    generator = torch.Generator().manual_seed(0)
    return [captions.caption(row, generator) for _ in range(count)]


def test_captions_are_mostly_the_evaluations_prompt_with_the_style_in_a_third():
    lines = many(FOX)
    assert 0.55 < sum(line.startswith("a fox") for line in lines) / len(lines) < 0.75
    assert 0.28 < sum("flat" in line for line in lines) / len(lines) < 0.39
    assert {"a fox", "fox emoji", "fox, animal", "a fox, flat style"} <= set(lines)
    assert captions.prompt("fox") == "a fox"


def test_vowels_are_captioned_with_both_articles():
    assert {"a ant", "an ant"} <= set(many(ANT))


def test_a_caption_depends_on_its_generator_only():
    assert many(FOX, 20) == many(FOX, 20)


@pytest.fixture(scope="module", params=["shipped", "new"])
def tokenizer(request, emoji):
    if request.param == "shipped":
        return CLIPTokenizer.from_pretrained(TEACHER / "tokenizer")
    return new_tokenizer(captions.all_wordings(emoji.rows))


def test_the_tokenizer_knows_how_long_a_prompt_may_be(tokenizer):
    assert tokenizer.model_max_length == LENGTH
    assert {tokenizer.unk_token, tokenizer.pad_token} == {tokenizer.eos_token}


def test_every_prompt_of_the_data_set_survives_a_round_trip(tokenizer, emoji):
    for name in {row.name for row in emoji.rows}:
        ids = tokenizer(captions.prompt(name)).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1 < LENGTH
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.replace(" ", "") == captions.prompt(name).lower().replace(" ", "")


@pytest.mark.parametrize(
    "prompt", ["", "a quixotic xylophone", "漢字 and ñandú!", "a fox " * 50, "🦊", "<|endoftext|>"]
)
def test_no_prompt_is_unknown_and_none_too_long(tokenizer, prompt):
    ids = tokenizer(prompt, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    assert len(ids) == LENGTH
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id


def test_style_words_are_in_the_vocabulary(tokenizer):
    words = {
        tokenizer.convert_ids_to_tokens(i) for style in STYLES.values() for i in tokenizer(style).input_ids
    }
    assert {"flat</w>", "noto</w>", "twemoji</w>", "emojione</w>"} <= words
