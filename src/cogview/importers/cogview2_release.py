"""Imports CogView2's release as one family directory: CogLM, both super-resolution models, tokenizers.

CogLM generates 20 x 20 codes (160 pixels), the direct model upscales them to 60 x 60 codes and the iterative
one corrects those; all share icetk's ids, its image tokenizer and the 500 clusters of its codes. The
release's ten styles are words after the caption, in Chinese for every language, some with their own sampling
settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, ModelBundle, Role
from cogview.checkpoints.family_writing import new_family
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.checkpoint import model_config
from cogview.importers.cogview1 import Released, open_released, write_model
from cogview.importers.family import (
    DTYPE,
    Progress,
    check_new,
    check_space,
    counter,
    family_name,
    weight_bytes,
)
from cogview.importers.released_hvqvae import read_hvqvae
from cogview.importers.releases import Release2
from cogview.importers.upsamplers import extras
from cogview.sequences import CogLMFormat
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat
from cogview.tokenizers.clusters import FILE as CLUSTERS
from cogview.tokenizers.clusters import cluster_codebook, read_labels, write_labels
from cogview.tokenizers.hvqvae import HierarchicalTokenizer
from cogview.tokenizers.icetk import NEWLINE
from cogview.tokenizers.text import TextTokenizer
from cogview.types import SamplingParams
from cogview.vocabulary import COGVIEW2_CONTROLS, COGVIEW2_LANGUAGES, Vocabulary

BASE, DIRECT, ITERATIVE = "base", "direct", "iterative"
WINDOW, ACROSS = (9, 5), (5, 5)  # local attention within the large image, and to the small one
PIXELS = 8  # per code and side
MULTIPLE = 10  # the released matrices are padded to a multiple: 150,003 ids in 150,010 rows

# Words after a caption, and the base model's temperature if it differs from DEFAULTS.
WORDS: dict[str, tuple[str, float | None]] = {
    "mainbody": ("高清摄影 隔绝", None),
    "photo": ("高清摄影", None),
    "flat": ("平面风格", 1.1),
    "comics": ("漫画 隔绝", 1.1),
    "oil": ("油画风格", None),
    "sketch": ("素描风格", 1.1),
    "isometric": ("等距矢量图", 1.1),
    "chinese": ("水墨国画", 1.12),
    "watercolor": ("水彩画风格", None),
}
STYLES = {"none": {"en": "", "zh": ""}} | {name: {"en": w, "zh": w} for name, (w, _) in WORDS.items()}
STYLE_DEFAULTS = {name: SamplingParams(temperature=t) for name, (_, t) in WORDS.items() if t is not None}
STYLE_DIRECT = dict.fromkeys(("flat", "comics"), SamplingParams(clusters=5, cluster_temperature=0.4))
TEMPLATES = {"en": "{caption} {style}", "zh": "{caption} {style}"}
DEFAULTS = SamplingParams(temperature=1.15, clusters=16, cluster_temperature=1.0, text_attention_bias=1.4)


@dataclass(frozen=True)
class Parts:
    """The opened and checked files of a release; no transformer weights are read yet."""

    text: TextTokenizer
    images: HierarchicalTokenizer
    labels: torch.Tensor | None
    vocabulary: Vocabulary
    models: dict[str, Released]


def released_vocabulary(codes: int, pieces: int, rows: int) -> Vocabulary:
    """The vocabulary of ``rows`` rows of embeddings.

    Raises:
        CogViewError: there are too few rows for the tokenizers' ids.
    """
    if rows < codes + pieces + len(COGVIEW2_CONTROLS):
        raise CogViewError(
            f"{rows} rows of embeddings are too few for {codes} image codes, {pieces} text pieces and "
            f"{len(COGVIEW2_CONTROLS)} more: these tokenizers belong to another model"
        )
    facts = {"image_codes": codes, "text_pieces": pieces, "controls": COGVIEW2_CONTROLS}
    full = pieces == COGVIEW2_LANGUAGES[-1][2]
    padded = Vocabulary(**facts, multiple=MULTIPLE, languages=COGVIEW2_LANGUAGES if full else ())
    return padded if padded.padded_size <= rows else padded.model_copy(update={"multiple": 1})


def released_format(release: Release2, vocabulary: Vocabulary, positions: int) -> CogLMFormat:
    """CogLM's sequence format; raises CogViewError if the model has too few positions for it."""
    facts = {
        "vocabulary": vocabulary,
        "text_slots": release.text_slots,
        "grid": (release.grid, release.grid),
        "image_start": release.image_start,
    }
    format = validate(CogLMFormat, facts, f"the {BASE} role's sequences")
    if format.max_positions > positions:
        raise CogViewError(
            f"{release.transformers[BASE]} has {positions} positions, {release.grid} x {release.grid} codes "
            f"after position {release.image_start} need {format.max_positions}; is --grid right?"
        )
    return format


def large_grid(path: Path, model: Released, grid: int) -> int:
    """Codes per side of the large image, from the number of positions; raises CogViewError if it does not
    fit."""
    side = math.isqrt(model.config.extra_positions)
    if side**2 != model.config.extra_positions or side % grid:
        raise CogViewError(
            f"{path} has {model.config.extra_positions} extra positions, which is not the square of a "
            f"multiple of {grid} codes; is --grid right?"
        )
    return side


def super_resolution_format(
    release: Release2, role: str, model: Released, vocabulary: Vocabulary
) -> DirectFormat | IterativeFormat:
    """The sequence format of the direct or iterative model; raises CogViewError if it does not fit CogLM."""
    side = large_grid(release.transformers[role], model, release.grid)
    facts = {
        "vocabulary": vocabulary,
        "grid": (side, side),
        "window": WINDOW,
        "first_position": model.config.max_positions,
    }
    where = f"the {role} role's sequences"
    if role == ITERATIVE:
        return validate(IterativeFormat, facts | {"text_slots": release.iterative_slots}, where)
    facts |= {
        "text_slots": release.direct_slots,
        "small": (release.grid, release.grid),
        "across": ACROSS,
        "image_start": release.image_start,
    }
    return validate(DirectFormat, facts, where)


def _open_model(release: Release2, role: str, heads: int | None) -> Released:
    """Open a role's checkpoint; heads: those of CogLM, if neither the user nor the checkpoint sets them."""
    path = release.transformers[role]
    if role == BASE:
        return open_released(path, release.heads)
    stated = model_config(path).get("num_attention_heads")
    decoder = release.direct_slots + release.grid**2 if role == DIRECT else None
    try:
        return open_released(path, release.heads or stated or heads, extras=extras(decoder))
    except CogViewError as error:
        message = str(error)
        raise CogViewError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def open_release(release: Release2) -> Parts:
    """Open and check every file.

    Raises:
        CogViewError: a file is missing, damaged, unsafe, or of another model than the rest.
    """
    text = TextTokenizer.from_file(release.text_tokenizer, NEWLINE)
    images = read_hvqvae(release.image_tokenizer, release.grid * PIXELS)
    labels = read_labels(release.clusters, images.codes) if release.clusters else None
    models = {BASE: _open_model(release, BASE, None)}
    heads = models[BASE].config.heads
    models |= {role: _open_model(release, role, heads) for role in release.transformers if role != BASE}
    rows = min(model.config.vocab_size for model in models.values())
    vocabulary = released_vocabulary(images.codes, text.pieces, rows)
    trimmed = {role: model.with_rows(vocabulary.padded_size) for role, model in models.items()}
    return Parts(text, images, labels, vocabulary, trimmed)


def import_release(release: Release2, out: str | Path, progress: Progress | None = None) -> ModelBundle:
    """Write a family directory; all files are checked before anything is written.

    Args:
        out: the new directory; its name becomes the family's.
        progress: called with the bytes written and their total.

    Raises:
        CogViewError: a file is missing, damaged, unsafe or of another model, or ``out`` exists.
    """
    out = Path(out)
    check_new(out)
    parts = open_release(release)
    config = _config(release, parts, family_name(out))
    total = sum(weight_bytes(model) for model in parts.models.values())
    check_space(out, total)
    report = counter(progress, total)
    with new_family(out, config) as folder:
        parts.text.save(folder / config.text_tokenizer)
        parts.images.save(folder / config.image_tokenizer, torch.float32)  # for exactly the same codes
        if parts.labels is None:
            cluster_codebook(parts.images.quantizer.codebook, folder / CLUSTERS)
        else:
            write_labels(parts.labels, folder / CLUSTERS)
        for role, model in parts.models.items():
            write_model(model, folder / role, DTYPE, report)
        (folder / "card.md").write_text(_card(release, parts), encoding="utf-8")
    return ModelBundle(out)


def _config(release: Release2, parts: Parts, name: str) -> FamilyConfig:
    positions = parts.models[BASE].config.max_positions
    roles = {BASE: Role(directory=BASE, sequences=released_format(release, parts.vocabulary, positions))}
    for role, model in parts.models.items():
        if role != BASE:
            format = super_resolution_format(release, role, model, parts.vocabulary)
            roles[role] = Role(directory=role, sequences=format)
    return FamilyConfig(
        name=name,
        vocabulary=parts.vocabulary,
        roles=roles,
        styles=STYLES,
        templates=TEMPLATES,
        defaults=DEFAULTS,
        style_defaults=STYLE_DEFAULTS,
        style_direct=STYLE_DIRECT if "direct" in roles else {},
        clusters=CLUSTERS,
        newline=NEWLINE,
        fingerprints=Fingerprints(
            image_tokenizer=parts.images.fingerprint, text_tokenizer=parts.text.fingerprint
        ),
    )


def _card(release: Release2, parts: Parts) -> str:
    """The card of the family: its sources."""
    lines = ["# Imported from CogView2's release", ""]
    for role, model in parts.models.items():
        size = f"{model.config.layers} layers of {model.config.hidden}"
        lines.append(f"- {role}: {Path(release.transformers[role]).resolve().name}, {size}")
    lines.append(f"- image tokenizer: {Path(release.image_tokenizer).name}")
    lines.append(f"- text tokenizer: {Path(release.text_tokenizer).name}")
    clusters = Path(release.clusters).name if release.clusters else "computed by k-means of the codebook"
    lines.append(f"- clusters of codes: {clusters}")
    return "\n".join([*lines, "", "The weights' licence is the one they were published under.", ""])
