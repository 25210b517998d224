"""The input sequence of each of a family's models for an image and its text, for analysis.

Every role has its own: CogView's base reads text and codes in order; a CogLM reads the text bidirectionally,
then [BOI] and the codes in order (CogView2, section 3.1); captioning and super-resolution models read the
image first. The base's sequence includes the text attention bias with which the image was generated
(CogView2, section 4.2).
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
from cogview.tokenizers.loading import encode_image, side_of
from cogview.transformer.attention import Causal, MaskRegions, Prefix, TextAttentionBias, Visibility


@dataclass(frozen=True)
class Reading:
    """One sequence: ids and positions (L,) int64, its attention pattern, and a description of the pattern."""

    ids: Tensor
    positions: Tensor
    visibility: Visibility
    description: str


def reading(model: Pipeline, role: str, image: GeneratedImage) -> Reading:
    """The sequence that the model of a role reads for an image that the family generated, before upscaling.

    Raises:
        CogViewError: the family has no such role, or the text is too long for it.
    """
    form, text_tokens = model.bundle.role(role).sequences, model.text_tokenizer.encode(image.caption)
    if form.kind in ("direct_super_resolution", "iterative_super_resolution"):
        return _super_resolution(model, form, text_tokens, image)
    plain = (_coglm if form.kind == "coglm" else _cogview)(model, form, text_tokens, image)
    emphasis = float(image.settings.get("emphasis") or 0) if role == BASE else 0.0
    if not emphasis:
        return plain
    text_length = model.text_to_image.format.image_prompt(text_tokens).text_length
    pattern = TextAttentionBias(plain.visibility, text_length, emphasis)
    description = f"{plain.description}; scores towards the text are {emphasis:g} larger, as in generation"
    return Reading(plain.ids, plain.positions, pattern, description)


def _coglm(model: Pipeline, form: Any, text_tokens: Sequence[int], image: GeneratedImage) -> Reading:
    sequence = form.drawing(text_tokens, image.codes)
    return Reading(
        torch.from_numpy(sequence.ids),
        torch.from_numpy(sequence.positions),
        MaskRegions(torch.from_numpy(sequence.order)),
        "the text sees itself both ways, each code sees the text and the codes up to itself",
    )


def _cogview(model: Pipeline, form: Any, text_tokens: Sequence[int], image: GeneratedImage) -> Reading:
    """CogView's sequences; the small image of super-resolution is downscaled from this one."""
    codes = codes_at(model, image, form.grid)
    context = () if form.context_grid is None else codes_at(model, image, form.context_grid)
    sequence = form.training(text_tokens, codes, context)
    pattern: Visibility = Causal()
    description = "each token sees those up to itself"
    if sequence.prefix:
        pattern = Prefix(sequence.prefix)
        description = "the prefix sees itself both ways, later tokens see everything before them"
    ids, positions = torch.from_numpy(sequence.ids), torch.from_numpy(sequence.positions)
    return Reading(ids, positions, pattern, description)


def _super_resolution(
    model: Pipeline, form: Any, text_tokens: Sequence[int], image: GeneratedImage
) -> Reading:
    """CogView2's super-resolution; for the iterative model, its first iteration."""
    texts = [text_tokens[: form.text_limit]]
    if form.kind == "direct_super_resolution":
        return _first(form.inputs(texts, image.codes[None]))
    if not model.bundle.config.two_stage:
        raise CogViewError(
            f"{model.bundle.config.name} generates no large image for its iterative model to read"
        )
    [large] = model.upscale([image])
    hidden = RELEASED.over(form.grid) >= 1
    return _first(form.inputs(texts, large.codes[None], hidden[None]))


def _first(inputs: Inputs) -> Reading:
    """The first sequence of a batch."""
    return Reading(inputs.ids[0], inputs.positions[0], inputs.visibility, "each code sees windows of codes")


def codes_at(model: Pipeline, image: GeneratedImage, grid: tuple[int, int]) -> NDArray[np.int64]:
    """An image's codes (rows * columns,) on a grid: its own if the grid matches, else those of its pixels."""
    if len(image.codes) == grid[0] * grid[1]:
        return image.codes
    height, width = (side_of(model.image_tokenizer, codes) for codes in grid)
    resized = image.image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return encode_image(model.image_tokenizer, resized)
