"""The example that makes both papers' tables 1: its rows, its ceiling and its floors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cogview.errors import CogViewError
from tests.evaluation.toy import Thumbnail
from tests.generation import tiny

PLACE = Path(__file__).parents[2] / "examples" / "paper_tables" / "run.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; pixels stand for the network's features."""
    spec = importlib.util.spec_from_file_location("paper_tables", PLACE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "paper_tables", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "open_extractor", lambda _: Thumbnail())
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight captioned pictures in colours of their own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i, text in enumerate(("a red circle", "a blue square", "a red square", "a blue circle") * 2):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(text)
    return folder


def test_every_model_has_a_row_between_floor_and_ceiling(
    example: ModuleType, data: Path, tmp_path: Path
) -> None:
    family = tiny.write(tmp_path / "tiny", captioning=True)
    out = tmp_path / "out"
    words = ["--corpus", str(data), "--weights", "none", "--model", str(family), "--judge", str(family)]
    words += [
        "-n",
        "4",
        "--split",
        "",
        "--languages",
        "en",
        "--best-of",
        "2",
        "--size",
        "16",
        "--out",
        str(out),
    ]
    example.main(words)
    told = json.loads((out / "tables.json").read_text())
    rows = told["rows"]
    assert list(rows) == ["real, en", "tiny, en", "tiny, best of 2, en", "nearest-training, en"]
    for own in rows.values():
        assert {*(f"FID-{k}" for k in (0, 1, 2, 4, 8)), "IS", "CapLoss", "KID-0"} <= set(own)
    fid = {name: own["FID-0"]["value"] for name, own in rows.items()}
    losses = {name: own["CapLoss"]["value"] for name, own in rows.items()}
    assert min(fid.values()) > 1e-3  # the reference is other pictures than those of the captions
    assert losses["tiny, best of 2, en"] != losses["tiny, en"] and losses["nearest-training, en"] > 0
    low, kid, high = (rows["tiny, en"]["KID-0"][part] for part in ("low", "value", "high"))
    assert low < kid < high and told["facts"]["pictures"] == 4
    assert told["facts"]["reference_fingerprint"] != told["facts"]["corpus_fingerprint"]
    table = (out / "tables.md").read_text()
    assert "| CogView, table 1 | FID-0 | FID-1 | FID-2 | FID-4 | FID-8 | IS | CapLoss |" in table
    assert f"| {fid['tiny, en']:.3f} |" in table
    assert f"| {1000 * kid:.3f} ±{500 * (high - low):.3f} |" in table


def test_a_judge_that_cannot_describe_is_refused(example: ModuleType, data: Path, tmp_path: Path) -> None:
    plain = str(tiny.write(tmp_path / "tiny"))
    with pytest.raises(CogViewError, match="caption"):
        example.main(["--corpus", str(data), "--weights", "x", "--model", plain, "--judge", plain, "-n", "4"])
