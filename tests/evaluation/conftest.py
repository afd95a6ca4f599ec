"""Sets on disk, an empty cache folder, and no hub."""

import pytest

from sets_on_disk import coco_folder, picture_folder


@pytest.fixture
def photos(tmp_path):
    return picture_folder(tmp_path / "photos", 12)


@pytest.fixture
def coco(tmp_path):
    return coco_folder(tmp_path / "coco", 12)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty; no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "tdd"
