"""How far a run of train-on is: ``state.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cogview.config import Config
from cogview.training.train_on.settings import Settings
from cogview.training.train_on.survey import Cost, Lengths, Survey

Stage = Literal["look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model"]
STAGES: tuple[Stage, ...] = ("look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model")
STATE = "state.json"


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
