"""Recipes and token shards for transformers that train in a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cogview.config import validate
from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer
from cogview.vocabulary import Vocabulary

VOCABULARY = Vocabulary(image_codes=8, text_pieces=20)


FIXED = {"layers": 2, "hidden": 32, "heads": 2}


def caption(kind: int, language: str) -> TokenCaption:
    """One, two or three pieces that say the picture's kind (0-3), in other pieces for each language."""
    first = 0 if language == "en" else 10
    return TokenCaption((first + kind, *(first + 5 + n for n in range(kind % 3))), language, "plain")


def picture(kind: int) -> np.ndarray:
    """The codes of a 2 x 2 picture: its kind and one, two, three more."""
    return (kind + np.arange(4)) % 8


def write_data(
    directory: Path,
    caption: Callable[[int, str], TokenCaption],
    vocabulary: Vocabulary,
    image_tokenizer: str,
    text_tokenizer: str,
) -> Path:
    items = [
        TokenItem(
            f"{number}",
            picture(number % 4),
            (caption(number % 4, "en"), caption(number % 4, "zh")),
            "a",
            "val" if number >= 48 else "train",
        )
        for number in range(64)
    ]
    layout = ShardLayout((2, 2), "uint8", "uint16", ("en", "zh"), ("a",), ("train", "val"))
    index = ShardIndex(
        items=64,
        captions=128,
        grid=(2, 2),
        codes_type="uint8",
        texts_type="uint16",
        vocabulary=vocabulary,
        preprocessing=Preprocessing(size=8),
        image_tokenizer=image_tokenizer,
        text_tokenizer=text_tokenizer,
        languages=("en", "zh"),
        sources={"a": 64},
        splits={"train": 48, "val": 16},
        shards=(write_shard(directory, "shard-00000", items, layout),),
    )
    write_atomically(directory / INDEX, index.model_dump_json())
    return directory


def recipe(data: Path, **fields: Any) -> TransformerRecipe:
    defaults = {
        "task": "transformer", "name": "tiny", "data": str(data), "model": FIXED, "format": {"text_slots": 6},
        "steps": 60, "batch_size": 16, "optimizer": {"lr": 0.01}, "device": "cpu", "threads": 1,
        "intervals": {"log": 10, "evaluate": 60, "sample": 0, "checkpoint": 20}, "validation": {"items": 16},
    }  # fmt: skip
    return validate(TransformerRecipe, {**defaults, **fields}, "test")


def fit(given: TransformerRecipe, directory: Path, resume: bool = False) -> list[dict[str, Any]]:
    prepare_directory(given, directory, resume)
    Trainer(TransformerTask(given), given, directory).fit(resume)
    return MetricsFile(directory / "metrics.jsonl").lines()
