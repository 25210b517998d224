"""Recipes for CogLMs that train in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.config import validate
from cogview.training.tasks.coglm import CogLMRecipe

FIXED = {"layers": 2, "hidden": 32, "heads": 2, "norm_relax": "none"}


def recipe(data: Path, **changes: Any) -> CogLMRecipe:
    given = {
        "task": "coglm",
        "name": "tiny",
        "data": str(data),
        "steps": 150,
        "batch_size": 16,
        "threads": 1,
        "model": FIXED,
        "format": {"text_slots": 8},
        "optimizer": {"kind": "muon", "lr": 0.02},
        "strategies": {"drawing": 1, "captioning": 1, "editing": 1, "share": 0.5},
        "intervals": {"evaluate": 150, "sample": 0},
    }
    return validate(CogLMRecipe, given | changes, "recipe")
