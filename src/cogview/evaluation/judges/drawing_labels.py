"""Labels of images: ``labels.jsonl`` beside an image cache, one line per image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cogview.config import Config
from cogview.data.image_cache import ImageCache
from cogview.errors import CogViewError
from cogview.evaluation.metrics.scene_rules import Box
from cogview.files import write_file

LABELS = "labels.jsonl"


class LabelledThing(Config):
    """One thing in an image: its name, its box in fractions of the image, and its colour if known."""

    thing: str
    box: Box | None = None
    colour: str | None = None


class Label(Config):
    """The things that the image ``key`` shows."""

    key: str
    things: tuple[LabelledThing, ...]


def write_labels(directory: Path, labels: Iterable[Label]) -> None:
    """Write ``labels.jsonl`` into the directory of an image cache."""
    lines = (label.model_dump_json(exclude_none=True) + "\n" for label in labels)
    write_file(directory / LABELS, "".join(lines))


def read_labels(cache: ImageCache) -> list[Label]:
    """Read the labels of a cache's images, in their order.

    Raises:
        CogViewError: the file is missing or damaged, or an image has no label.
    """
    path = cache.directory / LABELS
    try:
        lines = path.read_text("utf-8").splitlines()
        by_key = {label.key: label for label in map(Label.model_validate_json, lines)}
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise CogViewError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    missing = [key for key in cache.keys if key not in by_key]
    if missing:
        raise CogViewError(f"{path}: no label for {missing[0]!r} and {len(missing) - 1} others")
    return [by_key[key] for key in cache.keys]


def thing_ids(labels: Iterable[Label], things: dict[str, int]) -> np.ndarray:
    """The index of the first thing of each label, int64; -1 if it is not in ``things``."""
    return np.array([things.get(label.things[0].thing, -1) for label in labels], dtype=np.int64)
