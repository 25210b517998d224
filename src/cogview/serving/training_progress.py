"""What the studio shows of a training: its plan, and how far each run is, with its loss curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from cogview.config import load_yaml
from cogview.training.metric_lines import read_lines
from cogview.training.train_on.state import State

CURVE_POINTS = 200  # of a loss curve; up to twice as many are sent


def plan_summary(state: State) -> dict[str, Any] | None:
    """Contents of the data set and cost of the training; None before the plan."""
    if state.survey is None or state.cost is None:
        return None
    report, cost = state.survey.report, state.cost
    return {
        "pictures": state.survey.pictures,
        "captions": report.captions,
        "left_out": report.rejected,
        "unnamed": state.survey.unnamed,
        "parameters": cost.tokenizer_parameters + cost.transformer_parameters,
        "seconds": round(cost.seconds),
        "memory": cost.memory,
    }


def run_progress(folder: Path) -> dict[str, JsonValue] | None:
    """Progress of a ``cogview train`` run with its loss curve; None before its first step."""
    recipe, metrics = folder / "recipe.yaml", folder / "metrics.jsonl"
    if not recipe.is_file() or not metrics.is_file():
        return None
    lines = [
        line for line in read_lines(metrics) if line.get("kind") == "train" and line.get("loss") is not None
    ]
    if not lines:
        return None
    steps, last = int(load_yaml(recipe)["steps"]), lines[-1]
    curve = lines[:: max(1, len(lines) // CURVE_POINTS)]
    return {
        "step": last["step"],
        "steps": steps,
        "loss": last["loss"],
        "seconds_left": round((steps - last["step"]) * last.get("seconds", 0) / max(1, last["step"])),
        "curve": [[line["step"], line["loss"]] for line in curve],
    }
