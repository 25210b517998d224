"""Checks of single arguments as typer callbacks, which run before a command's function, without PyTorch."""

from __future__ import annotations

from typing import Any

from cogview.errors import CogViewError

NEAREST = "nearest-training"  # of evaluation/experiments/nearest.py: no model, pictures from the training set


def existing(value: Any) -> Any:
    """The path or paths; CogViewError for one that does not exist."""
    for path in _listed(value):
        if not path.exists():
            raise CogViewError(f"{path}: cannot be read (no such file or folder)")
    return value


def model_name(value: Any) -> Any:
    """The name or directory of a model, or several; CogViewError for one that there is not."""
    from cogview.checkpoints.bundle import find

    for name in _listed(value):
        find(name)
    return value


def drawer_name(value: Any) -> Any:
    """As :func:`model_name`, where ``nearest-training`` counts too."""
    model_name([name for name in _listed(value) if name != NEAREST])
    return value


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
