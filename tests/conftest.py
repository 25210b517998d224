"""Settings for all tests: one thread each, since they run side by side, and no user's files in reach."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
before = os.environ.get("PYTHONPATH")  # children test this tree too, whatever is installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), *([before] if before else [])])

from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile("cogview", deadline=None, max_examples=60)
hypothesis.settings.load_profile("cogview")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("COGVIEW_HOME", str(folder))
    yield folder
