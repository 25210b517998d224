"""Tiny real models for the tests of drawing: a transformer, and a whole family directory."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, Role
from cogview.checkpoints.family_writing import write_family
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary

CODES = 64
TEXTS = ["a red circle", "a blue square, pixel style", "红色的圆，像素风格", "蓝色的方块"] * 20
STYLES = {"pixel": {"en": "pixel", "zh": "像素"}, "english-only": {"en": "engraved"}}


@functools.cache
def text_tokenizer() -> TextTokenizer:
    """287 pieces, with byte fallback."""
    return TextTokenizer.train(TEXTS, pieces=287)


@functools.cache
def form(positions: str = "fixed") -> SequenceFormat:
    """Up to 31 pieces and 4 x 4 codes."""
    vocabulary = Vocabulary(image_codes=CODES, text_pieces=text_tokenizer().pieces)
    return SequenceFormat.model_validate(
        {"vocabulary": vocabulary, "text_slots": 32, "grid": (4, 4), "image_positions": positions}
    )


@functools.cache
def upscaling_form() -> SequenceFormat:
    """4 x 4 codes over 2 x 2."""
    changes = {"kind": "super_resolution", "context_grid": (2, 2)}
    return SequenceFormat.model_validate(form().model_dump() | changes)


@functools.cache
def caption_form(**changes: Any) -> SequenceFormat:
    """Captions of up to 30 pieces, ended by [SEP]."""
    return SequenceFormat.model_validate(
        form().model_dump() | {"kind": "image_to_text", "end": "[SEP]", **changes}
    )


def config(**changes: Any) -> TransformerConfig:
    """Two layers of width 32."""
    sizes = {"vocab_size": form().vocabulary.padded_size, "max_positions": form().max_positions}
    return TransformerConfig.model_validate({"layers": 2, "hidden": 32, "heads": 4, **sizes, **changes})


def transformer(seed: int = 0, **changes: Any) -> Transformer:
    """Random weights, ten times the starting scale, so that logits and their differences are large."""
    torch.manual_seed(seed)
    model = Transformer(config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.normal_(mean=1, std=0.1)
    return model


def write(
    directory: Path,
    upscaling: bool = False,
    captioning: bool = False,
    editing: bool = False,
    enlarging: bool = False,
) -> Path:
    """The family ``tiny`` under ``directory``, with pictures of 16 x 16 pixels; perhaps it does more too."""
    torch.manual_seed(1)
    shape = ImageTokenizerConfig(
        image_size=16,
        factors=(2, 2),
        channels=(8, 8),
        blocks=(0, 0),
        codes=CODES,
        code_dim=4,
        attention=False,
    )
    parts = {name: directory / "parts" / name for name in ("image_tokenizer", "text.model", "base")}
    ImageTokenizer(shape).save(parts["image_tokenizer"])
    text_tokenizer().save(parts["text.model"])
    transformer().save(parts["base"])
    roles = {"base": Role(directory="base", sequences=form())}
    if upscaling:
        parts["sr"] = directory / "parts" / "sr"
        transformer(seed=2).save(parts["sr"])
        roles["super_resolution"] = Role(directory="sr", sequences=upscaling_form())
    if captioning:
        parts["caption"] = directory / "parts" / "caption"
        transformer(seed=3).save(parts["caption"])
        roles["caption"] = Role(directory="caption", sequences=caption_form())
    if editing:
        from tests.generation import tiny2

        parts["coglm"] = directory / "parts" / "coglm"
        tiny2.transformer().save(parts["coglm"])
        roles["coglm"] = Role(directory="coglm", sequences=tiny2.form())
        for large in tiny2.large_forms() if enlarging else ():
            name = large.kind.partition("_")[0]
            parts[name] = directory / "parts" / name
            tiny2.enlarged(large).save(parts[name])
            roles[name] = Role(directory=name, sequences=large)
    prints = Fingerprints(
        image_tokenizer=ImageTokenizer.from_directory(parts["image_tokenizer"]).fingerprint,
        text_tokenizer=text_tokenizer().fingerprint,
    )
    family = FamilyConfig(
        name="tiny",
        vocabulary=form().vocabulary,
        roles=roles,
        styles=STYLES,
        defaults=SamplingParams(top_k=20),
        fingerprints=prints,
    )
    return write_family(family, directory / "tiny", parts).directory
