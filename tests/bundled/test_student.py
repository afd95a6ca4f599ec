"""The bundled student: there, small, and drawing what it is asked for in four network calls."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from tdd_cli.bundled.emoji import GUIDANCE, STUDENT, dataset, retrieval
from tdd_cli.bundled.emoji.compare import distance, draw_all
from tdd_cli.cli import app
from tdd_cli.families import load_family
from tdd_cli.families.lora import adapter_off, load_lora
from tdd_cli.generate import Sampling
from tdd_cli.inference import Inference


@pytest.fixture(scope="module")
def family():
    family = load_family("sdxl", "bundled:emoji")
    load_lora(family.net, STUDENT / "adapter.safetensors")
    return family


def test_it_is_small_and_says_how_it_is_sampled():
    inference = Inference.load(STUDENT / "inference.json")
    assert (inference.model, inference.method, inference.k_min, inference.k_max) == (
        "bundled:emoji",
        "tdd",
        4,
        8,
    )
    assert (STUDENT / "adapter.safetensors").stat().st_size < 9 * 2**20


def test_a_fox_at_once(tmp_path):
    done = CliRunner().invoke(app, ["sample", "a fox", "--steps", "4", "--clip-x0", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "the bundled student" in done.stderr
    assert "4 network calls each" in done.stderr
    image = Image.open(tmp_path / "a-fox-0.png")
    assert image.size == (64, 64)
    assert json.loads(image.text["tdd"])["clip_x0"] == 1


def test_it_draws_what_it_is_asked_for_and_nearly_what_the_teacher_draws(family):
    pairs = dataset.evaluation_split()[:32]
    drawn = draw_all(family, pairs, Sampling.of(Inference.load(STUDENT / "inference.json")))
    with adapter_off(family.net):
        unguided = draw_all(family, pairs, Sampling(steps=4))
        target = draw_all(family, pairs, Sampling(steps=20, guidance=GUIDANCE))
    among, names = retrieval.gallery(dataset.load()), [name for name, _ in pairs]
    ours, without = retrieval.score(drawn, names, among), retrieval.score(unguided, names, among)
    assert ours.top5 > 0.6
    assert ours.top1 > without.top1
    assert distance(drawn, target) < 0.5 * distance(drawn, target.roll(1, 0))
