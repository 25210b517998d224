"""The models of each size, and their two recipes.

The number of steps depends on the number of images: a number of passes over the data, within bounds. These
are defaults; ``--set image_tokenizer.KEY=VALUE`` and ``--set transformer.KEY=VALUE`` override any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cogview.checkpoints.bundle import ModelBundle
from cogview.config import Config, apply_override, validate
from cogview.errors import CogViewError
from cogview.tokenizers.vqvae import ImageTokenizerConfig
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe
from cogview.training.tasks.transformer_recipe import TransformerRecipe

MAX_WARMUP = 300


class Passes(Config):
    """Training steps as passes over the data, within bounds, in batches of ``batch``."""

    passes: int
    least: int
    most: int
    batch: int

    def steps(self, items: int) -> int:
        """The number of steps for a number of items."""
        return max(self.least, min(self.most, items * self.passes // self.batch))


class Size(Config):
    """One size of both models; ``for_whom`` describes its use."""

    for_whom: str
    tokenizer: ImageTokenizerConfig
    tokenizer_steps: Passes
    pieces: int
    text_slots: int
    layers: int
    hidden: int
    heads: int
    steps: Passes


def _tokenizer(
    size: int, factors: tuple[int, ...], channels: tuple[int, ...], codes: int
) -> ImageTokenizerConfig:
    blocks = (*(1 for _ in factors[1:]), 2)
    return ImageTokenizerConfig(
        image_size=size, factors=factors, channels=channels, blocks=blocks, codes=codes, code_dim=32
    )


SIZES = {
    "tiny": Size(
        for_whom="36 px, some minutes on one CPU core: to try things out",
        tokenizer=_tokenizer(36, (3, 2), (32, 64), 256),
        tokenizer_steps=Passes(passes=60, least=300, most=1000, batch=16),
        pieces=1000,
        text_slots=48,
        layers=4,
        hidden=64,
        heads=2,
        steps=Passes(passes=80, least=400, most=3000, batch=16),
    ),
    "small": Size(
        for_whom="72 px, a quarter of an hour on two CPU cores: some hundreds of drawings or icons",
        tokenizer=_tokenizer(72, (3, 2), (48, 96), 512),
        tokenizer_steps=Passes(passes=80, least=500, most=4000, batch=16),
        pieces=2000,
        text_slots=64,
        layers=6,
        hidden=192,
        heads=6,
        steps=Passes(passes=80, least=500, most=12000, batch=16),
    ),
    "base": Size(
        for_whom="72 px, hours on a CPU, minutes on a GPU: thousands of images (the default model's size)",
        tokenizer=_tokenizer(72, (3, 2), (96, 192), 4096),
        tokenizer_steps=Passes(passes=40, least=2000, most=10000, batch=16),
        pieces=8000,
        text_slots=64,
        layers=8,
        hidden=256,
        heads=8,
        steps=Passes(passes=40, least=2000, most=40000, batch=32),
    ),
    "large": Size(
        for_whom="128 px, a day on a GPU: hundreds of thousands of photographs",
        tokenizer=_tokenizer(128, (2, 2, 2), (96, 192, 256), 8192),
        tokenizer_steps=Passes(passes=10, least=20000, most=100_000, batch=32),
        pieces=16000,
        text_slots=64,
        layers=16,
        hidden=768,
        heads=12,
        steps=Passes(passes=20, least=20000, most=200_000, batch=64),
    ),
}


def named_size(name: str) -> Size:
    """A size by its name; raises a CogViewError that lists the sizes."""
    if name not in SIZES:
        raise CogViewError(f"--size {name}: there are {', '.join(SIZES)}")
    return SIZES[name]


def codes_for(size: Size, images: int) -> int:
    """The codebook size: a power of two from 16 on, limited by the number of codes in the images."""
    total = images * size.tokenizer.grid[0] * size.tokenizer.grid[1]
    codes = 16
    while codes < size.tokenizer.codes and codes * 8 <= total:
        codes *= 2
    return codes


def tokenizer_recipe(size: Size, images: int, data: str, seed: int) -> dict[str, Any]:
    """The image tokenizer's recipe as plain data."""
    steps = size.tokenizer_steps.steps(images)
    model = size.tokenizer.model_copy(update={"codes": codes_for(size, images)})
    return {
        "task": "image_tokenizer",
        "name": "image-tokenizer",
        "data": data,
        "seed": seed,
        "model": model.model_dump(mode="json"),
        "steps": steps,
        "batch_size": size.tokenizer_steps.batch,
        "warmup_steps": min(MAX_WARMUP, steps // 8),
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"kind": "cosine", "warmup": 0.05, "floor": 0.0},
    }


def transformer_recipe(
    size: Size, images: int, data: str, seed: int, start: ModelBundle | None, rank: int | None
) -> dict[str, Any]:
    """The transformer's recipe as plain data: from scratch, or from ``start`` (with LoRA of ``rank``)."""
    steps = size.steps.steps(images)
    fields: dict[str, Any] = {
        "task": "transformer",
        "name": "transformer",
        "data": data,
        "seed": seed,
        "steps": steps,
        "batch_size": size.steps.batch,
        "format": {"text_slots": size.text_slots, "image_positions": "fixed"},
        "mixture": {"empty": 0.06, "reworded": 0.6, "dropout": 0.03},
        "schedule": {"kind": "linear", "warmup": 0.03, "hold": 0.4, "floor": 0.0},
        "precision": "auto",
    }
    if start is None:
        fields["model"] = {
            "layers": size.layers,
            "hidden": size.hidden,
            "heads": size.heads,
            "norm_relax": "none",
            "branch_gain": 0.25,
        }
        muon = {"kind": "muon", "lr": 0.02, "adam_lr": 2e-3, "scale": "spectral", "weight_decay": 0.01}
        return fields | {"optimizer": muon}
    fields["init"] = str(start.directory)
    known = start.role("base").sequences
    copied = (
        "text_slots",
        "image_positions",
        "visibility",
        "size",
        "text_weight",
        "image_weight",
        "weighting",
    )
    fields["format"] = {name: getattr(known, name) for name in copied}
    if rank is not None:
        fields["lora"] = {"rank": rank, "alpha": 2.0 * rank}
    rate = 3e-4 if rank is None else 2e-3
    return fields | {"optimizer": {"kind": "adamw", "lr": rate, "weight_decay": 0.01}}


def _intervals(steps: int) -> dict[str, Any]:
    """Per run fifty log lines, eight sample sheets and four evaluations; a checkpoint every minute."""
    quarter = max(1, steps // 4)
    return {
        "log": max(1, steps // 50),
        "evaluate": quarter,
        "sample": max(1, steps // 8),
        "checkpoint": quarter,
        "minutes": 1.0,
    }


def finish_recipes(
    tokenizer: dict[str, Any] | None, transformer: dict[str, Any], overrides: Sequence[str]
) -> tuple[ImageTokenizerRecipe | None, TransformerRecipe]:
    """Both recipes with the user's overrides, validated; None for a tokenizer that is not trained."""
    both = {"image_tokenizer": tokenizer or {}, "transformer": transformer}
    for override in overrides:
        stage = override.partition("=")[0].partition(".")[0]
        if stage not in both or (stage == "image_tokenizer" and tokenizer is None):
            stages = "transformer" if tokenizer is None else "image_tokenizer or transformer"
            raise CogViewError(f"--set {override}: begin with {stages}, as in transformer.steps=500")
        apply_override(both, override)
    for recipe in both.values():
        if isinstance(recipe.get("steps"), int):
            recipe["intervals"] = _intervals(recipe["steps"]) | recipe.get("intervals", {})
    transformer_recipe = validate(TransformerRecipe, both["transformer"], "transformer")
    if tokenizer is None:
        return None, transformer_recipe
    return validate(ImageTokenizerRecipe, both["image_tokenizer"], "image_tokenizer"), transformer_recipe
