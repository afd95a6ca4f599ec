"""What a picture's file remembers is enough to make it again, and says so where it is not."""

import pytest
from PIL import Image

from tdd_cli.errors import DataError, UsageError
from tdd_cli.inference import Inference
from tdd_cli.pictures import save_png
from tdd_cli.record import Given, Making, read
from tdd_cli.sampling import Sampling
from tdd_cli.student import Adapter, Source, bundled

INFERENCE = Inference(
    family="sdxl",
    model="m",
    method="tdd",
    teacher_grid=250,
    k_min=4,
    k_max=8,
    steps=4,
    guidance=1.0,
    eta=0.0,
    schedule="equal",
    clip_x0=0,
)


@pytest.fixture
def making(tmp_path):
    for name in ("ours.safetensors", "style.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    Image.new("RGB", (8, 8)).save(tmp_path / "edges.png")
    return Making(
        Source(
            INFERENCE, tmp_path / "ours.safetensors", 0.9, (Adapter(tmp_path / "style.safetensors", 0.5),)
        ),
        Sampling(steps=3, schedule=(999, 500, 3), guidance=(2.0, 1.0, 1.0), negative="dull", clip_x0=1),
        (64, 96),
        Given(init=tmp_path / "edges.png", controls=(("canny", tmp_path / "edges.png", 0.7),)),
    )


def kept(tmp_path, making):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (8, 8)), path, {"prompt": "a fox", "seed": 7, **making.describe()})
    return path


def test_all_of_it_comes_back(tmp_path, making):
    memory = read(kept(tmp_path, making))
    assert (memory.prompt, memory.seed, memory.making) == ("a fox", 7, making)


def test_the_bundled_student_is_remembered_by_name_wherever_it_is_installed():
    weights = bundled()[1]
    (entry,) = Making(Source(INFERENCE, weights), Sampling()).describe()["weights"]
    assert entry["path"] == "bundled"


@pytest.mark.parametrize("name", ["ours.safetensors", "style.safetensors", "edges.png"])
def test_files_that_changed_or_went_are_said(tmp_path, making, name):
    path = kept(tmp_path, making)
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(UsageError, match=f"{name} has changed since"):
        read(path)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"{name} is gone"):
        read(path)


def test_pictures_that_remember_nothing_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    save_png(Image.new("RGB", (8, 8)), tmp_path / "half.png", {"format": 1, "prompt": "a fox"})
    (tmp_path / "no.png").write_text("no picture")
    for name, message in [("plain", "does not say how"), ("half", "is incomplete"), ("no", "cannot be read")]:
        with pytest.raises(DataError, match=message):
            read(tmp_path / f"{name}.png")


def test_what_draws_instead_need_not_be_what_drew(tmp_path, making):
    path = kept(tmp_path, making)
    (tmp_path / "ours.safetensors").unlink()
    other = Source(INFERENCE, None)
    assert read(path, other).making.source == other
