"""The table of examples/sampling: its arithmetic, and one row of it drawn by a tiny CogLM."""

from __future__ import annotations

import argparse
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.fid import DistributionPlan, kid
from tests.generation import tiny2

SCRIPT = Path(__file__).parents[2] / "examples" / "sampling" / "run.py"
if not SCRIPT.is_file():
    pytest.skip("the examples are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


class Means:
    """An extractor whose features are the mean colour of each quarter of a picture."""

    name, fingerprint, size = "means", "0", 8

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        blocks = pictures.reshape(len(pictures), 2, 4, 2, 4, 3).mean((2, 4)).reshape(len(pictures), -1)
        return blocks.astype(np.float32), np.ones((len(pictures), 1), dtype=np.float32)


def test_top_k_is_read_off_where_it_is_as_diverse(script: dict[str, Any]) -> None:
    def row(accuracy: float, kid: float, diversity: float) -> dict[str, float]:
        return {"accuracy": accuracy, "kid": kid, "diversity": diversity}

    rows = {
        "top-k 10": row(0.9, 0.10, 0.5),
        "all codes": row(0.5, 0.30, 1.5),
        "clusters 4": row(0.8, 0.1, 0.75),
        "clusters 64": row(0.4, 0.1, 1.6),
        "emphasis 1": row(0.1, 0.1, 1.0),
    }
    found = script["at_equal_diversity"](rows)
    assert found["clusters 4"] == {"accuracy": pytest.approx(0.8), "kid": pytest.approx(0.15)}
    assert found["clusters 64"] == {"accuracy": None, "kid": None} and len(found) == 2


def test_distances(script: dict[str, Any]) -> None:
    one, other = np.zeros((3, 2), np.float32), np.array([[3, 4], [0, 0], [6, 8]], np.float32)
    assert script["spread"](one, other) == pytest.approx(5.0)
    assert script["real_spread"](other, ["a", "b", "a"]) == pytest.approx(5.0)  # b has no other of its style


def test_settings_change_one_thing_at_a_time(script: dict[str, Any]) -> None:
    found = script["settings_of"]([5, 0], [4], [0, 1.5])
    assert list(found) == ["top-k 5", "all codes", "clusters 4", "emphasis 0", "emphasis 1.5"]
    assert found["clusters 4"] == {"top_k": 0, "clusters": 4, "emphasis": 0.0}
    assert found["emphasis 1.5"] == {"emphasis": 1.5}


def test_a_row_is_of_the_pictures_that_were_drawn(
    script: dict[str, Any], corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    reader.save(tmp_path / "classifier")
    given = argparse.Namespace(
        corpus=corpus,
        classifier=tmp_path / "classifier",
        extractor=tmp_path,
        model=str(tiny2.write(tmp_path / "family")),
        precision="fp32",
        n=4,
        seed=0,
        batch=4,
        temperature=1.15,
        guidance=None,
        work=tmp_path / "work",
    )
    script["Experiment"].__init__.__globals__["open_extractor"] = lambda path: Means()
    experiment = script["Experiment"](given)
    short = {"zh": "红色的圆", "en": "a red circle"}  # the tiny family reads 22 pieces
    experiment.chosen = [replace(avatar, captions=short) for avatar in experiment.chosen]
    row = experiment.row("clusters 4", {"clusters": 4})
    paths = sorted((tmp_path / "work").rglob("*.png"))
    assert len(paths) == 8 and 0 <= row["accuracy"] <= 1 and row["diversity"] > 0
    told = {path: json.loads((path.parent / "run.json").read_text()) for path in paths}
    seeds = {path: own["seed"] for path, own in told.items()}
    assert all(own["sampling"] == {"temperature": 1.15, "clusters": 4} for own in told.values())
    folders = [[path for path in paths if seeds[path] == own] for own in sorted(set(seeds.values()))]
    pictures = [np.stack([toy_picture(path) for path in folder]) for folder in folders]
    drawn = np.concatenate([Means()(found)[0] for found in pictures])
    assert row["kid"] == pytest.approx(kid(experiment.real, drawn, DistributionPlan(bootstrap=0)).value)
    again = experiment.row("clusters 4", {"clusters": 4})
    assert again == row and len(list((tmp_path / "work").rglob("*.png"))) == 8


def toy_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    from cogview.data.images import square
    from cogview.data.shards import Preprocessing

    with Image.open(path) as image:
        return square(image.convert("RGB"), Preprocessing(size=8))


def test_a_drawer_of_cogview2s_kind(tmp_path: Path) -> None:
    """Large pictures, or the first step's if asked; captions and losses by the same model."""
    family = str(tiny2.write(tmp_path, enlarging=True))
    large, small = ModelGenerator(family), ModelGenerator(family, small=True)
    [one], [other] = large.generate(["a red circle"], 1, {}), small.generate(["a red circle"], 1, {})
    assert (one.size, other.size) == ((48, 48), (16, 16)) and large.fingerprint != small.fingerprint
    images, losses = large.candidates("a red circle", 2, 1, {"temperature": 0.5})
    assert [image.size for image in images] == [(16, 16)] * 2 and len(losses) == 2
