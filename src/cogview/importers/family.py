"""Imports CogView's release as one family directory: transformers, image tokenizer, text tokenizer.

The sequence formats are those of the released scripts: positions are indices, [ROI2] keeps its position and
the next token has position 1, and texts use the positions that an image leaves.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, ModelBundle, Role
from cogview.checkpoints.family_writing import new_family
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.checkpoint import check_sums, map_weights
from cogview.importers.cogview1 import Released, open_released, write_model
from cogview.importers.released_vqvae import import_vqvae
from cogview.importers.releases import GRID, Release
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary

BASE, CAPTION, SUPER_RESOLUTION = "base", "caption", "super_resolution"
KINDS = {BASE: "text_to_image", CAPTION: "image_to_text", SUPER_RESOLUTION: "super_resolution"}
PIXELS = 8  # per code and side
DTYPE = torch.float16
MAX_RANKS = 64

# The styles CogView was finetuned on (section 3.3), and the captions that select them.
STYLES = {
    "chinese-painting": {"en": "Chinese traditional drawing", "zh": "国画"},
    "oil-painting": {"en": "oil painting", "zh": "油画"},
    "sketch": {"en": "sketch", "zh": "素描"},
    "cartoon": {"en": "cartoon", "zh": "卡通"},
}
TEMPLATES = {"en": "{caption} of {style} style", "zh": "{style}风格的{caption}"}
DEFAULTS = SamplingParams(temperature=1.0, top_k=200)

Progress = Callable[[int, int], None]


def released_format(role: str, vocabulary: Vocabulary, positions: int, grid: int = GRID) -> SequenceFormat:
    """The sequence format that a released model with ``positions`` positions was trained on.

    Base and caption: text and image share the positions. Super-resolution: positions restart after the small
    image, whose codes are additional in the released length (1089 + 256 = 1345).

    Raises:
        CogViewError: there are too few positions for an image of grid x grid codes and a text.
    """
    upscales = role == SUPER_RESOLUTION
    slots = positions - grid * grid - (8 if upscales else 3)
    if slots < 2:
        raise CogViewError(f"{positions} positions are too few for {grid} x {grid} codes; is --grid right?")
    facts = {
        "kind": KINDS[role],
        "vocabulary": vocabulary,
        "text_slots": slots,
        "grid": (grid, grid),
        "context_grid": (grid // 2, grid // 2) if upscales else None,
        "image_positions": "index",
        "recount": "inference" if upscales else "finetune",
    }
    return validate(SequenceFormat, facts, f"the {role} role's sequences")


def import_release(release: Release, out: str | Path, progress: Progress | None = None) -> ModelBundle:
    """Write a family directory; all files are checked before anything is written.

    Args:
        out: the new directory; its name becomes the family's.
        progress: called with the bytes written and their total.

    Raises:
        CogViewError: a file is missing, damaged, unsafe or of another model, or ``out`` exists.
    """
    out = Path(out)
    check_new(out)
    text = TextTokenizer.from_file(release.text_tokenizer)
    images = read_image_tokenizer(release.image_tokenizer, release.grid)
    vocabulary = Vocabulary(image_codes=images.codes, text_pieces=text.pieces)
    opened = {role: _open(release, role, vocabulary) for role in KINDS if role in release.transformers}
    config = FamilyConfig(
        name=family_name(out),
        vocabulary=vocabulary,
        roles={role: _role(role, model, vocabulary, release.grid) for role, model in opened.items()},
        styles=STYLES,
        templates=TEMPLATES,
        defaults=DEFAULTS,
        fingerprints=Fingerprints(image_tokenizer=images.fingerprint, text_tokenizer=text.fingerprint),
    )
    total = sum(weight_bytes(model) for model in opened.values())
    check_space(out, total)
    report = counter(progress, total)
    with new_family(out, config) as folder:
        text.save(folder / config.text_tokenizer)
        images.save(folder / config.image_tokenizer, torch.float32)  # as released, for exactly the same codes
        del images
        for role, model in opened.items():
            write_model(model, folder / role, DTYPE, report)
        (folder / "card.md").write_text(_card(release, opened), encoding="utf-8")
    return ModelBundle(out)


def read_image_tokenizer(path: Path, grid: int = GRID) -> ImageTokenizer:
    """Read the released image tokenizer from a ``.pt`` file, for images of grid x grid codes.

    Raises CogViewError if the file is damaged or of another model.
    """
    weights = map_weights(path)
    check_sums(path)
    try:
        return import_vqvae(weights, grid * PIXELS)
    except CogViewError as error:
        message = str(error)
        raise CogViewError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _open(release: Release, role: str, vocabulary: Vocabulary) -> Released:
    """Open a role's checkpoint, without the padding rows that only model parallelism needs."""
    source = release.transformers[role]
    opened = open_released(source, release.heads, release.released)
    rows, expected = opened.config.vocab_size, vocabulary.padded_size
    allowed = {
        -(-vocabulary.size // (vocabulary.multiple * ranks)) * vocabulary.multiple * ranks
        for ranks in range(1, MAX_RANKS + 1)
    }
    if rows not in allowed:
        raise CogViewError(
            f"{source} has a vocabulary of {rows} rows; {vocabulary.image_codes} image codes and "
            f"{vocabulary.text_pieces} text pieces make {expected}: these tokenizers belong to another model"
        )
    return opened if rows == expected else opened.with_rows(expected)


def _role(role: str, model: Released, vocabulary: Vocabulary, grid: int) -> Role:
    sequences = released_format(role, vocabulary, model.config.max_positions, grid)
    return Role(directory=role, sequences=sequences)


def check_new(out: Path) -> None:
    """Raise CogViewError if ``out`` exists, except as an empty directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CogViewError(f"{out} exists already; choose another folder, or remove it")


def family_name(out: Path) -> str:
    """A family's name, from the name of its directory."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).strip("._-") or "cogview"


def weight_bytes(model: Released) -> int:
    return sum(shape.numel() for shape in model.shapes.values()) * DTYPE.itemsize


def check_space(out: Path, needed: int) -> None:
    """Raise CogViewError if there is too little disk space."""
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise CogViewError(f"{out}: {needed / 1e9:.1f} GB will be written and {free / 1e9:.1f} GB are free")


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A callback that adds up the bytes of written blocks for ``progress``."""
    done = 0

    def add(written: int) -> None:
        nonlocal done
        done += written
        if progress is not None:
            progress(done, total)

    return add


def _card(release: Release, opened: Mapping[str, Released]) -> str:
    """The card of the family: its sources."""
    lines = ["# Imported from CogView's release", ""]
    for role, model in opened.items():
        size = f"{model.config.layers} layers of {model.config.hidden}"
        lines.append(f"- {role}: {Path(release.transformers[role]).resolve().name}, {size}")
    lines.append(f"- image tokenizer: {Path(release.image_tokenizer).name}")
    lines.append(f"- text tokenizer: {Path(release.text_tokenizer).name}")
    return "\n".join([*lines, "", "The weights' licence is the one they were published under.", ""])
