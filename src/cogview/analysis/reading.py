"""What a family's models read of an image and its text: the sequences that they are looked into with.

Each role reads its own: CogView's base text and codes in order; a CogLM the text both ways, then [BOI] and
the codes in order (CogView2, section 3.1); what describes or enlarges, the image first. The base's has the
emphasis on the text that the image was drawn with (CogView2, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cogview.checkpoints.bundle import BASE
from cogview.errors import CogViewError
from cogview.generation.local_parallel import RELEASED
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.model import Pipeline
from cogview.sequences.super_resolution import Inputs
from cogview.tokenizers.loading import encode_image
from cogview.transformer.attention import Causal, MaskRegions, Prefix, TextAttentionBias, Visibility


@dataclass(frozen=True)
class Reading:
    """One sequence: ids and positions (L,) int64, and who sees whom, also in words."""

    ids: Tensor
    positions: Tensor
    visibility: Visibility
    told: str


def reading(model: Pipeline, role: str, picture: GeneratedImage) -> Reading:
    """What the model of a role reads of an image that the family drew and did not enlarge.

    Raises:
        CogViewError: the family has no such role, or the text is longer than it reads.
    """
    form, pieces = model.bundle.role(role).sequences, model.text_tokenizer.encode(picture.caption)
    if form.kind in ("direct_super_resolution", "iterative_super_resolution"):
        return _enlarging(model, form, pieces, picture)
    found = (_coglm if form.kind == "coglm" else _in_order)(model, form, pieces, picture)
    emphasis = float(picture.settings.get("emphasis") or 0) if role == BASE else 0.0
    if not emphasis:
        return found
    words = model.text_to_image.format.image_prompt(pieces).text_length
    pattern = TextAttentionBias(found.visibility, words, emphasis)
    told = f"{found.told}; scores towards the text are {emphasis:g} larger, as when it was drawn"
    return Reading(found.ids, found.positions, pattern, told)


def _coglm(model: Pipeline, form: Any, pieces: Sequence[int], picture: GeneratedImage) -> Reading:
    made = form.drawing(pieces, picture.codes)
    return Reading(
        torch.from_numpy(made.ids),
        torch.from_numpy(made.positions),
        MaskRegions(torch.from_numpy(made.order)),
        "the text sees itself both ways, each code the text and the codes up to itself",
    )


def _in_order(model: Pipeline, form: Any, pieces: Sequence[int], picture: GeneratedImage) -> Reading:
    """CogView's sequences, the small image of super-resolution shrunk from this one."""
    codes = codes_at(model, picture, form.grid)
    context = () if form.context_grid is None else codes_at(model, picture, form.context_grid)
    made = form.training(pieces, codes, context)
    pattern: Visibility = Causal()
    told = "each token sees those up to itself"
    if made.prefix:
        pattern, told = Prefix(made.prefix), "what is given sees itself both ways, what follows all before it"
    return Reading(torch.from_numpy(made.ids), torch.from_numpy(made.positions), pattern, told)


def _enlarging(model: Pipeline, form: Any, pieces: Sequence[int], picture: GeneratedImage) -> Reading:
    """Of CogView2's upper steps; the iterative model's first turn."""
    texts = [pieces[: form.text_limit]]
    if form.kind == "direct_super_resolution":
        return _alone(form.inputs(texts, picture.codes[None]))
    if not model.bundle.config.two_stage:
        raise CogViewError(
            f"{model.bundle.config.name} draws no large picture for its iterative model to read"
        )
    [large] = model.upscale([picture])
    hidden = RELEASED.over(form.grid) >= 1
    return _alone(form.inputs(texts, large.codes[None], hidden[None]))


def _alone(inputs: Inputs) -> Reading:
    told = "each code sees windows of codes"
    return Reading(inputs.ids[0], inputs.positions[0], inputs.visibility, told)


def codes_at(model: Pipeline, picture: GeneratedImage, grid: tuple[int, int]) -> NDArray[np.int64]:
    """An image's codes (rows * columns,) on a grid: its own where their number fits, else those of its
    pixels."""
    if len(picture.codes) == grid[0] * grid[1]:
        return picture.codes
    factor = model.image_tokenizer.image_size // model.image_tokenizer.grid()[0]
    shown = picture.image.convert("RGB").resize(
        (grid[1] * factor, grid[0] * factor), Image.Resampling.LANCZOS
    )
    return encode_image(model.image_tokenizer, shown)
