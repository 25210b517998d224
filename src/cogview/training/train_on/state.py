"""The state of a train-on run: ``state.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from cogview.checkpoints.bundle import FILE
from cogview.checkpoints.family_writing import remove_family
from cogview.checkpoints.prompt_help import FILE as WORDS
from cogview.config import Config
from cogview.errors import CogViewError
from cogview.files import remove_entry
from cogview.training.locks import LOCK, locked
from cogview.training.train_on.settings import Settings
from cogview.training.train_on.survey import Cost, Lengths, Survey

Stage = Literal["look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model"]
STAGES: tuple[Stage, ...] = ("look", "text", "pictures", "image_tokenizer", "tokens", "transformer", "model")
STATE, SAMPLES = "state.json", "samples.png"
# The outputs of the stages in the work directory, the lock last.
PARTS = (STATE, "text.model", "pictures", "image_tokenizer", "tokens", "transformer", "card.md", LOCK)


class State(Config):
    """``state.json``: the settings, the data's fingerprint, the finished stages and their results."""

    format: Literal[1] = 1
    settings: Settings
    fingerprint: str = ""
    done: tuple[Stage, ...] = ()
    survey: Survey | None = None
    lengths: Lengths | None = None
    cost: Cost | None = None
    facts: dict[str, float] = Field(default_factory=dict)


def restart(out: Path, work: Path | None = None) -> None:
    """Remove an earlier run's files from its work directory, and its result; other files are kept."""
    folder = work or out.with_name(out.name + ".work")
    if folder.is_dir() and (folder / STATE).is_file():
        with locked(folder):
            for name in PARTS:
                remove_entry(folder / name)
            if (out / FILE).is_file():
                remove_family(out, SAMPLES, WORDS)
    elif out.is_dir() and any(out.iterdir()):
        raise CogViewError(
            f"{out} does not seem to be written by train-on (no {folder / STATE}); remove it yourself"
        )
