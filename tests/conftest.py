"""Fixtures that several folders share. That this file is here also lets tests say `from tiny import ...`."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tiny import PIPELINES, tiny_pipeline

# A busy machine must not fail a test by its time, nor a draw the suite: it is the same every time.
# `pytest --hypothesis-profile=explore` draws new ones, many more.
settings.register_profile(
    "tdd", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("explore", settings.get_profile("tdd"), derandomize=False, max_examples=3000)
settings.load_profile("tdd")


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random pipeline's folder for each family; to be read only."""
    root = tmp_path_factory.mktemp("tiny")
    return {family: tiny_pipeline(family, root) for family in PIPELINES}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small are slower on two threads, and far slower while another process wants a core."""
    torch.set_num_threads(1)
