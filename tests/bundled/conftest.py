import pytest

from tdd_cli.bundled.emoji import dataset


@pytest.fixture(scope="session")
def emoji():
    return dataset.load()
