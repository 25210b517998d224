"""Small studies: four models of one-coloured pictures, two of which share a place."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from cogview.study.create import create_study
from cogview.study.store import Store

MODELS = ("real", "old", "plain", "sharp")
ROOT = Path(__file__).parents[2]
SIMULATE = ROOT / "examples" / "study" / "simulate.py"
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def write_inputs(place: Path, captions: int = 4, models: tuple[str, ...] = MODELS) -> dict[str, Path]:
    """Folders of pictures and ``captions.csv``."""
    for number, model in enumerate(models):
        (place / model).mkdir(parents=True)
        for caption in range(captions):
            Image.new("RGB", (8, 8), (40 * number, 20 * caption, 90)).save(place / model / f"c{caption}.png")
    with (place / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "en", "zh"])
        table.writerows([f"c{n}", f"caption <{n}>", f"描述{n}"] for n in range(captions))
    return {model: place / model for model in models}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Folders of pictures of four captions, with ``captions.csv`` beside them."""
    return write_inputs(tmp_path)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Makes a study with raters."""

    def make(raters: int = 2, captions: int = 4, **options: object) -> Store:
        models = write_inputs(tmp_path / "in", captions)
        given: dict[str, object] = {"ab": ("plain", "sharp")} | options
        create_study(tmp_path / "study", models, tmp_path / "in" / "captions.csv", **given)  # type: ignore[arg-type]
        store = Store.open(tmp_path / "study")
        store.invite(raters)
        return store

    return make


@pytest.fixture(scope="session")
def simulate() -> ModuleType:
    """The example's script, whose check computes the figures from the CSV in its own way."""
    spec = importlib.util.spec_from_file_location("simulate", SIMULATE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
