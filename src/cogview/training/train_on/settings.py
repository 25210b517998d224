"""The settings of ``train-on``. This module does not import PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from cogview.config import Config, option
from cogview.data.images import Limits
from cogview.data.sources import parse_captions
from cogview.errors import CogViewError
from cogview.training.train_on.filename_captions import Policy
from cogview.types import Resample

OPTIONS = {
    "source": "the folder", "start": "--from", "columns": "--column", "captions": "--caption",
    "overrides": "--set", "limits": "--max-bytes, --max-pixels or --max-seconds",
}  # fmt: skip


class Settings(Config):
    """The settings that determine the result; a stopped run can only be resumed with the same settings."""

    source: str = option(
        ...,
        "Images, with or without captions: a folder, a table, an archive (see docs/data.md).",
        argument=True,
        metavar="FOLDER",
    )
    size: Literal["tiny", "small", "base", "large"] = option("small", "Size of the model.")
    start: str | None = option(
        None, "Continue from this model and its tokenizers: pictogram.", "--from", metavar="FAMILY"
    )
    lora: int | None = option(None, "With --from: only train an adapter of this rank.", ge=1)
    unnamed: Policy = option("names", "Images without a caption: use their file names, or leave them out.")
    columns: tuple[str, ...] = option(
        (), "As in cogview data.", "--column", metavar="ROLE=NAME", repeated=True
    )
    images: str | None = option(None, "The folder of a table's images.")
    captions: Annotated[dict[str, tuple[str, ...]], BeforeValidator(parse_captions)] = option(
        {}, "One caption for every image.", "--caption", metavar="[LANG=]TEXT", repeated=True
    )
    translate: str | None = option(None, "Add Chinese captions, as in cogview data.", metavar="COMMAND")
    limits: Limits = Limits()
    resample: Resample = "bilinear"
    seed: int = option(0, "Seed of the weights, the order of the data and the samples.", ge=0)
    device: str = option("auto", "auto, cpu, cuda or mps.")
    overrides: tuple[str, ...] = option(
        (), "transformer.steps=500, image_tokenizer.…", "--set", metavar="STAGE.KEY=VALUE", repeated=True
    )


def check_settings(before: Settings, now: Settings, work: Path) -> None:
    """Raise CogViewError, naming the option, if a run was started with other settings."""
    old, new = before.model_dump(), now.model_dump()
    for name in new:
        if old[name] != new[name]:
            option = OPTIONS.get(name, f"--{name}")
            raise CogViewError(
                f"{work}: {option} was {_as_given(old[name])} and is now {_as_given(new[name])}; "
                "use the same to resume, or --restart"
            )


def _as_given(value: Any) -> str:
    """A setting as on the command line."""
    if value in (None, (), {}):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
