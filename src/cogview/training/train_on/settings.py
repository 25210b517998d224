"""What a run of ``train-on`` was asked for and how far it is: ``state.json`` in its work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogview.config import Config
from cogview.data.images import Limits
from cogview.errors import CogViewError
from cogview.training.train_on.filename_captions import Policy
from cogview.training.train_on.survey import Cost, Lengths, Survey

Stage = Literal["look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model"]
STAGES: tuple[Stage, ...] = ("look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model")
STATE = "state.json"
OPTIONS = {
    "source": "the folder", "start": "--from", "columns": "--column", "captions": "--caption",
    "overrides": "--set", "limits": "--max-bytes, --max-pixels or --max-seconds",
}  # fmt: skip


class Settings(Config):
    """What decides the result; a stopped run goes on only under the same settings."""

    source: str
    size: str = "small"
    start: str | None = None
    lora: int | None = Field(None, ge=1)
    unnamed: Policy = "names"
    columns: tuple[str, ...] = ()
    images: str | None = None
    captions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    translate: str | None = None
    limits: Limits = Limits()
    resample: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    seed: int = 0
    device: str = "auto"
    overrides: tuple[str, ...] = ()


class State(Config):
    """``state.json``: the settings, the data's fingerprint, the stages that are done and what they found."""

    format: Literal[1] = 1
    settings: Settings
    fingerprint: str = ""
    done: tuple[Stage, ...] = ()
    survey: Survey | None = None
    lengths: Lengths | None = None
    cost: Cost | None = None
    facts: dict[str, float] = Field(default_factory=dict)


def check_settings(before: Settings, now: Settings, work: Path) -> None:
    """Raise CogViewError, naming the option, where a run was begun with other settings."""
    old, new = before.model_dump(), now.model_dump()
    for name in new:
        if old[name] != new[name]:
            option = OPTIONS.get(name, f"--{name}")
            raise CogViewError(
                f"{work}: {option} was {_told(old[name])} and is now {_told(new[name])}; "
                "go on with the same, or --restart"
            )


def _told(value: Any) -> str:
    """A setting as it was written on the command line."""
    if value in (None, (), {}):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
