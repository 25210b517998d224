"""The loss scaler against the released code's trace, and what ``auto`` chooses."""

import json
import math
from pathlib import Path

import pytest
import torch

from cogview.training.precision import LossScaler, resolve
from cogview.transformer import processor

TRACES = json.loads((Path(__file__).parents[1] / "fixtures/cogview1/loss_scaler.json").read_text())


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: f"hysteresis {trace['args']['delayed_shift']}")
def test_released_trace(trace: dict[str, object]) -> None:
    args = trace["args"]
    scaler = LossScaler(
        scale=args["init_scale"],
        window=args["scale_window"],
        minimum=args["min_scale"],
        patience=args["delayed_shift"],
    )
    scales = []
    for overflow in trace["overflow"]:
        scaler = scaler.update(bool(overflow))
        scales.append(scaler.scale)
    assert scales == trace["scale_after"]


def test_scale_stops_at_the_minimum() -> None:
    scaler = LossScaler(scale=4, minimum=2, patience=1)
    for _ in range(5):
        scaler = scaler.update(True)
    assert scaler.scale == 2 and math.isfinite(scaler.scale)


@pytest.mark.parametrize(("gain", "chosen"), [(0.0, "fp32"), (0.01, "fp32"), (1.1, "fp32"), (2.5, "bf16")])
def test_auto_is_bf16_only_where_it_was_measured_to_be_faster(
    gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "bf16_gain", lambda: gain)
    cpu = torch.device("cpu")
    assert resolve("auto", cpu) == chosen
    assert [resolve(name, cpu) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


def test_without_instructions_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "has_bf16_instructions", lambda: False)
    assert processor.bf16_gain.__wrapped__() == 0
