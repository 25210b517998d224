"""How far a run of train-on is: ``state.json``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from cogview.checkpoints.bundle import FILE
from cogview.config import Config
from cogview.errors import CogViewError
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


def restart(out: Path, work: Path | None = None) -> None:
    """Remove what an earlier run left: its work directory, and its result if it made it."""
    folder = work or out.with_name(out.name + ".work")
    if folder.is_dir() and (folder / STATE).is_file():
        shutil.rmtree(folder)
        if (out / FILE).is_file():
            shutil.rmtree(out)
    elif out.is_dir() and any(out.iterdir()):
        raise CogViewError(
            f"{out} was not made by train-on, as far as can be seen (no {folder / STATE}); remove it yourself"
        )
