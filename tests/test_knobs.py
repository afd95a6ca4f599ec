"""Settings as they are typed."""

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.knobs import KNOBS, turn
from tdd_cli.sampling import Sampling


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sampling()),
        ({"steps": None, "eta": None}, Sampling()),
        ({"steps": 6}, Sampling(steps=6)),
        ({"guidance": "1.5"}, Sampling(guidance=1.5)),
        ({"guidance": "2,2,1,1"}, Sampling(guidance=(2.0, 2.0, 1.0, 1.0))),
        ({"guidance": "2@1-2"}, Sampling(guidance=(2.0, 2.0, 1.0, 1.0))),
        ({"guidance": "2@3", "steps": "5"}, Sampling(steps=5, guidance=(1.0, 1.0, 2.0, 1.0, 1.0))),
        ({"schedule": "early"}, Sampling(schedule="early")),
        ({"schedule": "999, 500,3"}, Sampling(steps=3, schedule=(999, 500, 3))),
        ({"clip-x0": "on"}, Sampling(clip_x0=1)),
        ({"clip-x0": "off"}, Sampling(clip_x0=0)),
        ({"clip-x0": "2", "clip-low": 3, "clip-high": 4}, Sampling(clip_x0=2, clip_low=3.0, clip_high=4.0)),
        (
            {"guidance-mode": "post", "teacher-guidance": "4.5"},
            Sampling(guidance_mode="post", teacher_guidance=4.5),
        ),
        ({"negative": "blurry", "eta": "0.2"}, Sampling(negative="blurry", eta=0.2)),
        ({"strength": "0.5", "clip-ratio": "0.9"}, Sampling(strength=0.5, clip_ratio=0.9)),
    ],
)
def test_settings_are_read_from_text(given, expected):
    assert turn(Sampling(), given) == expected


BAD = [
    ("steps", "0"),
    ("steps", "x"),
    ("steps", "4.5"),
    ("steps", "²"),
    ("guidance", "x"),
    ("guidance", "101"),
    ("guidance", "nan"),
    ("guidance", "2,"),
    ("guidance", "2@0"),
    ("guidance", "2@3-2"),
    ("guidance", "2@1-9"),
    ("guidance-mode", "on"),
    ("teacher-guidance", "0"),
    ("eta", "2"),
    ("eta", "-0.1"),
    ("schedule", "late"),
    ("schedule", "999,x"),
    ("schedule", "1000"),
    ("clip-x0", "yes"),
    ("clip-x0", "-1"),
    ("clip-low", "0"),
    ("clip-high", "x"),
    ("clip-ratio", "1.1"),
    ("strength", "1.5"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_that_cannot_be_name_the_option_and_what_was_given(name, value):
    with pytest.raises(UsageError) as caught:
        turn(Sampling(), {name: value})
    assert caught.value.message.startswith(f"--{name} {value}: ")


def test_every_setting_but_free_text_has_a_bad_value_above():
    assert {name for name, _ in BAD} == set(KNOBS) - {"negative"}


def test_an_unknown_setting_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown setting 'guidence'; did you mean 'guidance'"):
        turn(Sampling(), {"guidence": "1"})


def test_a_number_of_steps_takes_the_place_of_an_explicit_schedule():
    assert turn(Sampling(steps=2, schedule=(999, 3)), {"steps": "6"}) == Sampling(steps=6)
