"""Settings for all tests: one thread each, since they run side by side, and no user's files in reach."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
before = os.environ.get("PYTHONPATH")  # children test this tree too, whatever is installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), *([before] if before else [])])

import random  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("cogview", deadline=None, max_examples=60)
hypothesis.settings.load_profile("cogview")


SLOW = (  # rooms and files that train models, start processes or draw with the shipped models
    "analysis/test_stability_example.py",
    "cli/test_options.py",
    "cli/test_shipped_models.py",
    "data/test_building_at_scale.py",
    "data/test_pictogram.py",
    "evaluation",
    "hostile",
    "importers",
    "onnx/test_runtime.py",
    "page",
    "serving/test_studio.py",
    "serving/test_worker.py",
    "study/test_browser.py",
    "test_benchmarks.py",
    "test_interface.py",
    "test_paper_experiments.py",
    "test_readme.py",
    "test_researcher.py",
    "training/parallel",
    "training/test_assemble.py",
    "training/test_assemble_hierarchy.py",
    "training/test_coglm_task.py",
    "training/test_upscaling_task.py",
    "training/test_fashion_and_style.py",
    "training/test_hierarchical_tokenizer_task.py",
    "training/test_image_tokenizer_task.py",
    "training/test_kill.py",
    "training/test_lora_training.py",
    "training/test_on_a_device.py",
    "training/test_super_resolution_task.py",
    "training/test_sweep.py",
    "training/test_train_on.py",
    "training/test_transfer.py",
    "training/test_transformer_task.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-quick` leaves out; a single slow test has the marker itself."""
    slow = [Path(__file__).parent / name for name in SLOW]
    for item in items:
        if any(place in (item.path, *item.path.parents) for place in slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("COGVIEW_HOME", str(folder))
    yield folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers for a test, alone and after any others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a release of CogView2, at a tiny size."""
    from tests.importers.release2 import write_release

    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def imported(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family that `cogview import cogview2` makes of it."""
    from cogview.cli.app import main
    from tests.importers.release2 import options

    out = tmp_path_factory.mktemp("models") / "cogview2"
    assert main(options(release, out)) == 0
    return out
