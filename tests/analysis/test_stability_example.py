"""The experiment of figure 4 at toy size: real half precision, overflow found and placed, curves kept."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

SCRIPT = Path(__file__).parents[2] / "examples" / "stability" / "run.py"
SMALL = [
    "--layers",
    "2",
    "--hidden",
    "16",
    "--length",
    "8",
    "--steps",
    "3",
    "--every",
    "1",
    "--vocabulary",
    "16",
]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def settings(script: dict[str, Any], *words: str) -> Namespace:
    found: Namespace = script["parse"]([*SMALL, *words])
    return found


def test_an_overflow_in_the_forward_pass_ends_a_variant_and_is_placed(script: dict[str, Any]) -> None:
    config = TransformerConfig(
        layers=3, hidden=16, heads=1, vocab_size=16, max_positions=8, numerics="written", norm="pre"
    )
    model, ids = Transformer(config).half(), torch.randint(16, (1, 8))
    with torch.no_grad():
        model.blocks[1].mlp.down.weight.fill_(3e4)
        model.blocks[1].mlp.up.bias.fill_(10.0)
    assert script["_where"](model, ids) == "feed-forward of layer 1"
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight.mul_(6e4)
    assert script["_where"](model, ids) == "attention scores, layer 0"


def test_variants_are_kept_and_drawn(
    script: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path), *SMALL])
    script["main"]()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:4]] == ["pre-LN", "PB-relax", "Sandwich-LN", "both"]
    assert all("trained on to step 3" in line for line in said[:4])
    assert (tmp_path / "stability.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "stability.json").read_text())
    assert list(found["variants"]) == ["pre-LN", "PB-relax", "Sandwich-LN", "both"]
    assert all(variant["ended"] is None for variant in found["variants"].values())
    curve = json.loads((tmp_path / "both.json").read_text())["curve"]
    assert len(curve["losses"]) == 3 and curve["measured"] == [0, 1, 2] and curve["ended"] is None
    variants = [path for path in tmp_path.glob("*.json") if path.name != "stability.json"]
    times = {path.name: path.stat().st_mtime_ns for path in variants}
    script["main"]()  # nothing is trained again
    assert {path.name: path.stat().st_mtime_ns for path in variants} == times


def test_fp16_and_fp32_are_compared(script: dict[str, Any]) -> None:
    found = script["agreement"](settings(script, "--steps", "20", "--lr", "1e-3"))
    assert found["fp32"]["skipped"] == 0 and 0 < found["apart"] < 0.05


def test_a_learning_rate_that_is_too_large_overflows_the_plain_variant(script: dict[str, Any]) -> None:
    given = settings(script, "--steps", "60", "--lr", "40", "--patience", "3")
    curve = script["train"]("pre-LN", given)
    assert curve.ended is not None and curve.ended < 57 and curve.overflow
    assert curve.losses[-3:] == [None] * 3 and curve.skipped >= 3 and curve.scales[-1] < 2.0**16
