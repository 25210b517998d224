"""examples/finetuning: pictures from packages, a model finetuned whole and by LoRA, what is kept of it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from tests.data.tiny_packages import make_packages
from tests.generation import tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "finetuning" / "run.py"
pytest.importorskip("resvg_py", reason="the extra `dev` is not installed")


def test_the_experiment_is_rehearsed(tmp_path: Path) -> None:
    packages, model = make_packages(tmp_path / "packages"), tiny.write(tmp_path / "model")
    out = tmp_path / "out"
    script = runpy.run_path(str(SCRIPT))
    words = ["--packages", str(packages), "--out", str(out), "--model", str(model), "--rehearse"]
    script["main"](words)

    assert len(list((out / "pictures").glob("*.png"))) == 5
    caption = next(iter(sorted((out / "pictures").glob("*.txt")))).read_text("utf-8").splitlines()
    assert caption[0].endswith(", blob style") and caption[1].endswith("，小团子风格")
    found = json.loads((out / "finetuning.json").read_text("utf-8"))
    assert found["hash"] == ModelBundle(model).hash
    trained = {
        line for path in (out / "pictures").glob("*.txt") for line in path.read_text("utf-8").split("\n")
    }
    assert len(found["prompts"]) == 2 and not trained & set(found["prompts"])
    for way in ("whole", "lora"):
        first = found[way]["first"]["image_loss"]
        assert first["start"] == pytest.approx(first["own"], abs=0.5)  # it begins where the model is
        assert [step for step, _ in found[way]["train"]] == [1, 2]
        assert ModelBundle(out / way).hash != found["hash"]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 3 * 16 and sheet.height > 2 * 16

    before = (out / "whole.log").read_text("utf-8")
    script["main"](words)  # nothing is done again
    assert (out / "whole.log").read_text("utf-8") == before
