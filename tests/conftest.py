"""Settings for all tests: one thread each, since they run side by side, and no user's files in reach."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("cogview", deadline=None, max_examples=60)
hypothesis.settings.load_profile("cogview")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("COGVIEW_HOME", str(folder))
    yield folder
