"""What a family's models read of a picture and its text: the sequences that they are looked into with.

Each role reads its own: CogView's base text and codes in order; a CogLM the text both ways, then [BOI] and
the codes in order (CogView2, section 3.1); what describes or enlarges, the picture first. The base's has the
emphasis on the text that the picture was drawn with (CogView2, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cogview.coglm import CogLMFormat
from cogview.coglm.super_resolution import DirectFormat, Inputs, IterativeFormat
from cogview.errors import CogViewError
from cogview.generation.local_parallel import RELEASED
from cogview.generation.roles import BASE
from cogview.hierarchy import Hierarchy
from cogview.pipeline import CogView, Picture
from cogview.sequences import SequenceFormat
from cogview.transformer.attention import Causal, Emphasis, MaskRegions, Prefix, Visibility


@dataclass(frozen=True)
class Reading:
    """One sequence: ids and positions (L,) int64, and who sees whom, also in words."""

    ids: Tensor
    positions: Tensor
    visibility: Visibility
    told: str


def reading(model: CogView, role: str, picture: Picture) -> Reading:
    """What the model of a role reads of a picture that the family drew and did not enlarge.

    Raises:
        CogViewError: the family has no such role, or the text is longer than it reads.
    """
    form, pieces = model.family.role(role).sequences, model.text.encode(picture.caption)
    if isinstance(form, SequenceFormat):
        found = _in_order(model, form, pieces, picture)
    elif isinstance(form, CogLMFormat):
        made = form.drawing(pieces, picture.codes)
        regions = MaskRegions(torch.from_numpy(made.order))
        found = Reading(
            torch.from_numpy(made.ids),
            torch.from_numpy(made.positions),
            regions,
            "the text sees itself both ways, each code the text and the codes up to itself",
        )
    else:
        return _enlarging(model, form, pieces, picture)
    emphasis = float(picture.settings.get("emphasis") or 0) if role == BASE else 0.0
    if not emphasis:
        return found
    pattern = Emphasis(found.visibility, form.words(len(pieces)), emphasis)
    told = f"{found.told}; scores towards the text are {emphasis:g} larger, as when it was drawn"
    return Reading(found.ids, found.positions, pattern, told)


def _in_order(model: CogView, form: SequenceFormat, pieces: Sequence[int], picture: Picture) -> Reading:
    """CogView's sequences, the small picture of super-resolution shrunk from this one."""
    codes = codes_at(model, picture, form.grid)
    context = () if form.context_grid is None else codes_at(model, picture, form.context_grid)
    made = form.training(pieces, codes, context)
    pattern: Visibility = Causal()
    told = "each token sees those up to itself"
    if made.prefix:
        pattern, told = Prefix(made.prefix), "what is given sees itself both ways, what follows all before it"
    return Reading(torch.from_numpy(made.ids), torch.from_numpy(made.positions), pattern, told)


def _enlarging(
    model: CogView, form: DirectFormat | IterativeFormat, pieces: Sequence[int], picture: Picture
) -> Reading:
    """Of CogView2's upper steps; the iterative model's first turn."""
    texts = [pieces[: form.text_limit]]
    if isinstance(form, DirectFormat):
        return _alone(form.inputs(texts, picture.codes[None]))
    if not isinstance(model, Hierarchy) or not model.enlarges:
        raise CogViewError(
            f"{model.family.config.name} draws no large picture for its iterative model to read"
        )
    [large] = model.enlarge([picture])
    hidden = RELEASED.over(form.grid) >= 1
    return _alone(form.inputs(texts, large.codes[None], hidden[None]))


def _alone(inputs: Inputs) -> Reading:
    told = "each code sees windows of codes"
    return Reading(inputs.ids[0], inputs.positions[0], inputs.visibility, told)


@torch.inference_mode()
def codes_at(model: CogView, picture: Picture, grid: tuple[int, int]) -> NDArray[np.int64]:
    """A picture's codes (rows * columns,) on a grid: its own where they are so many, else of its pixels."""
    if len(picture.codes) == grid[0] * grid[1]:
        return picture.codes
    factor = model.images.image_size // model.images.grid()[0]
    shown = picture.image.convert("RGB").resize(
        (grid[1] * factor, grid[0] * factor), Image.Resampling.LANCZOS
    )
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None].float() / 255
    device = next(model.images.parameters()).device
    codes: NDArray[np.int64] = model.images.encode(pixels.to(device))[0].cpu().numpy()
    return codes
