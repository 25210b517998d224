"""The page "a researcher's afternoon": its blocks, run as they stand in the working directory of a reader."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from tests.test_readme import ROOT, blocks, commands, workplace  # noqa: F401 - a fixture

PAGE = ROOT / "docs" / "researcher.md"


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "cogview":
        assert main(words[1:]) == 0, words
    else:
        assert words[0] == "python"
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")


@pytest.mark.slow
def test_a_researchers_afternoon(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    names: dict[str, object] = {"__name__": "afternoon"}
    for language, text in blocks(PAGE):
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
        else:
            for words in commands(text):
                run(words, monkeypatch)
    family = ModelBundle(workplace / "models" / "cogview")
    assert set(family.config.roles) == {"base", "caption", "super_resolution"}
    drawn = sorted(Path("drawn").glob("*.png"))
    pictures = names["pictures"]
    assert len(drawn) == 2 and isinstance(pictures, list)
    files = {np.asarray(Image.open(path)).tobytes() for path in drawn if "grid" not in path.name}
    assert {np.asarray(own.image).tobytes() for own in pictures} == files  # the command and Python agree
    large, edited, best = (names[name] for name in ("large", "edited", "best"))
    assert large.image.size == (128, 128)  # type: ignore[attr-defined]
    before, after = (np.asarray(one.image).astype(int) for one in (best, edited))  # type: ignore[attr-defined]
    assert (np.abs(before - after)[:8, :8] <= 1).all()  # far from the box nothing changes
    lines = [json.loads(line) for line in Path("runs/caption/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses and all(np.isfinite(losses))
