"""The experiment of figure 4 at toy size: real half precision, overflow found and placed, curves kept."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.training.precision import LossScaler
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


def test_a_step_is_adamw_on_fp32_copies_of_fp16_weights(script: dict[str, Any]) -> None:
    """Against plain fp32 training: fp16 rounds, so about a thousandth; and weights are rounded copies."""
    config = TransformerConfig(
        layers=1, hidden=16, heads=1, vocab_size=16, max_positions=8, numerics="written"
    )
    torch.manual_seed(0)
    model, plain = Transformer(config), Transformer(config)
    plain.load_state_dict(model.state_dict())
    half = script["HalfModel"](model, lr=0.01, decay=0.0)
    half.scaler = LossScaler(scale=64.0)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    ids = torch.randint(16, (2, 9))
    for network in (half.model, plain):
        logits = network.logits(network(ids[:, :-1], torch.arange(8))).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if network is plain:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
        else:
            assert half.step(loss) and half.scaler.scale == 64.0
    pairs = list(zip(half.masters, plain.parameters(), strict=True))
    for master, weight in zip(half.masters, half.model.parameters(), strict=True):
        assert weight.dtype == torch.float16 and torch.equal(weight, master.half())
    off = torch.cat([(master - expected).abs().flatten() for master, expected in pairs])
    # Adam's first step has the gradient's sign alone: where that is nearly 0 (the keys' biases) it may differ
    assert (off < 2e-3).float().mean() > 0.95


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
    curve = json.loads((tmp_path / "both.json").read_text())["curve"]
    assert len(curve["losses"]) == 3 and curve["measured"] == [0, 1, 2] and curve["ended"] is None
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    script["main"]()  # nothing is trained again
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == times


def test_a_learning_rate_that_is_too_large_overflows_the_plain_variant(script: dict[str, Any]) -> None:
    given = settings(script, "--steps", "60", "--lr", "40", "--patience", "3")
    curve = script["train"]("pre-LN", given)
    assert curve.ended is not None and curve.ended < 57 and curve.overflow
    assert curve.losses[-3:] == [None] * 3 and curve.skipped >= 3 and curve.scales[-1] < 2.0**16
