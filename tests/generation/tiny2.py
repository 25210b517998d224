"""A tiny CogLM family: pictures of 16 x 16 pixels, 4 x 4 codes, Chinese and English."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, Role
from cogview.checkpoints.family_writing import write_family
from cogview.sequences import CogLMFormat
from cogview.sequences.coglm import END
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, upscaler_config
from cogview.tokenizers.clusters import cluster_codebook
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
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


def enlarged(large: DirectFormat | IterativeFormat, seed: int = 3) -> Transformer:
    """A super-resolution model that has the CogLM's weights, and random ones where it has its own."""
    coglm = transformer()
    torch.manual_seed(seed)
    model = Transformer(upscaler_config(coglm.config, large)).eval()
    known = coglm.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(known[name]) if name in known else parameter.normal_(std=0.2)
    return model


def large_forms() -> tuple[DirectFormat, IterativeFormat]:
    """12 x 12 codes over the 4 x 4, windows of 3 x 3."""
    positions = transformer().config.max_positions
    small = {"window": (3, 3)}
    direct = DirectFormat.over(form(), 3, positions).model_copy(update=small | {"across": (3, 3)})
    return direct, IterativeFormat.over(form(), 3, positions).model_copy(update=small)


def write(directory: Path, enlarging: bool = False) -> Path:
    """The family ``tiny2`` under ``directory``; perhaps it makes pictures three times as large, too."""
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
    roles = {"base": Role(directory="base", sequences=form())}
    for large in large_forms() if enlarging else ():
        name = large.kind.partition("_")[0]
        parts[name] = directory / "parts" / name
        enlarged(large).save(parts[name])
        roles[name] = Role(directory=name, sequences=large)
    prints = Fingerprints(
        image_tokenizer=ImageTokenizer.from_directory(parts["image_tokenizer"]).fingerprint,
        text_tokenizer=tiny.text_tokenizer().fingerprint,
    )
    family = FamilyConfig(
        name="tiny2",
        vocabulary=form().vocabulary,
        roles=roles,
        styles=tiny.STYLES,
        defaults=SamplingParams(clusters=4, emphasis=1.4),
        style_defaults={"pixel": SamplingParams(temperature=0.5)},
        clusters="clusters.safetensors",
        fingerprints=prints,
    )
    return write_family(family, directory / "tiny2", parts).directory
