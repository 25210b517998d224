"""A tiny CogLM family: pictures of 16 x 16 pixels, 4 x 4 codes, Chinese and English."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from cogview.coglm import CogLMFormat
from cogview.coglm.format import END
from cogview.family import Defaults, FamilyConfig, Fingerprints, Role, StyleDefaults, write_family
from cogview.tokenizers.clusters import cluster_codebook
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary
from tests.generation import tiny


@functools.cache
def form() -> CogLMFormat:
    pieces = tiny.text_tokenizer().pieces
    vocabulary = Vocabulary(image_codes=tiny.CODES, text_pieces=pieces, controls=(*COGVIEW2_CONTROLS, END))
    return CogLMFormat(vocabulary=vocabulary, text_slots=24, grid=(4, 4), end=END)


def transformer(seed: int = 0) -> Transformer:
    sizes = {"vocab_size": form().vocabulary.padded_size, "max_positions": form().max_positions}
    return tiny.transformer(seed, **sizes, norm_relax="none")


def write(directory: Path) -> Path:
    """The family ``tiny2`` under ``directory``."""
    torch.manual_seed(1)
    shape = ImageTokenizerConfig(
        image_size=16,
        factors=(2, 2),
        channels=(8, 8),
        blocks=(0, 0),
        codes=tiny.CODES,
        code_dim=4,
        attention=False,
    )
    names = ("image_tokenizer", "text.model", "base", "clusters.safetensors")
    parts = {name: directory / "parts" / name for name in names}
    images = ImageTokenizer(shape)
    images.save(parts["image_tokenizer"])
    tiny.text_tokenizer().save(parts["text.model"])
    transformer().save(parts["base"])
    cluster_codebook(images.quantizer.codebook, parts["clusters.safetensors"], 8)
    prints = Fingerprints(
        image_tokenizer=ImageTokenizer.from_directory(parts["image_tokenizer"]).fingerprint,
        text_tokenizer=tiny.text_tokenizer().fingerprint,
    )
    family = FamilyConfig(
        name="tiny2",
        vocabulary=form().vocabulary,
        roles={"base": Role(directory="base", sequences=form())},
        styles=tiny.STYLES,
        defaults=Defaults(clusters=4, emphasis=1.4),
        style_defaults={"pixel": StyleDefaults(temperature=0.5)},
        clusters="clusters.safetensors",
        fingerprints=prints,
    )
    return write_family(family, directory / "tiny2", parts).directory
