"""Token shards for all tests of training."""

from pathlib import Path

import pytest

from tests.training.runs import VOCABULARY, caption, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 items of four kinds, each with a caption in two languages."""
    return write_data(tmp_path_factory.mktemp("tokens"), caption, VOCABULARY, "1" * 16, "2" * 64)
