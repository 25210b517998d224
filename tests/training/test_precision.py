"""The loss scaler against the released code's trace, and mixed precision in a real run."""

import json
import math
from pathlib import Path

import pytest

from cogview.training.precision import LossScaler

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
