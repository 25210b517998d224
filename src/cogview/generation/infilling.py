"""Filling holes of a picture by a sentence (CogView2, section 3.1, "Infilling"; figure 3).

The masked tokens come last; what is known comes before them, as context. A region's first token was never
predicted in training, so the context token in front of each region is moved to it and starts it. Every token
keeps the position it has in the picture.

All regions are filled in one go, from one cache, or one after the other: then each sees all that is known,
the regions before it among them, and only one token is moved at a time.

``released`` does what the published script does: a token is moved only where its right neighbour in its own
row is masked, and text, [BOI] and context are three blocks that see what came before them and themselves.
Otherwise all of them see each other, as in training, a region that starts at the left border gets the token
at the end of the row above, and one that starts the picture gets [BOI].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cogview.errors import CogViewError
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.sequences import CogLMFormat
from cogview.sequences.masks import runs
from cogview.sequences.protocols import Prompt
from cogview.transformer.attention import Staircase
from cogview.types import Ids, ProgressCallback, SamplingParams

Order = Literal["together", "one_by_one"]
Style = Literal["paper", "released"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Arrangement:
    """A picture with holes in the order in which it is read and filled.

    context: (n,) places (of codes) that are read first; filled: (m,) places after them, of which
    ``moved`` (m,) bool are known and start a region; begins: [BOI] is moved too, to the very first.
    """

    context: Ids
    filled: Ids
    moved: Mask
    begins: bool = False


def arrange(mask: ArrayLike, style: Style = "paper", absent: ArrayLike | None = None) -> Arrangement:
    """Order the places of a picture.

    Args:
        mask: bool (rows, columns), True where a code is to be drawn.
        absent: the same size, True where a code is neither known nor to be drawn now.
    """
    hole = np.asarray(mask, dtype=np.bool_)
    flat = hole.ravel()
    gone = np.zeros_like(flat) if absent is None else np.asarray(absent, dtype=np.bool_).ravel()
    if not flat.any():
        raise CogViewError("nothing of the picture is masked; mark what is to be drawn anew")
    follows = np.zeros_like(hole)  # the next code is masked
    if style == "released":
        follows[:, :-1] = hole[:, 1:]
    else:
        follows.reshape(-1)[:-1] = flat[1:]
    moved = follows.ravel() & ~flat & ~gone
    filled = np.flatnonzero(flat | moved)
    context = np.flatnonzero(~(flat | moved | gone))
    return Arrangement(context, filled, moved[filled], style == "paper" and bool(flat[0]))


def prompt_of(
    form: CogLMFormat, text: Ids, codes: Ids, order: Arrangement, style: Style = "paper"
) -> tuple[Prompt, Ids]:
    """What is read, and the tokens after it: known ones, and -1 where one is to be drawn.

    Args:
        text: (n,) ids of the vocabulary. The released script's end with [BOI], which then comes twice.
        codes: (rows * columns,); masked ones do not matter.
    """
    places, words = form.code_positions(), len(text)
    first = np.arange(words), text
    begin = np.array([form.begin_position]), np.array([form.begin_id])
    context = places[order.context], codes[order.context]
    parts = (first, context, begin) if order.begins else (first, begin, context)
    positions, ids = (np.concatenate([part[i] for part in parts]).astype(np.int64) for i in (0, 1))
    seen = len(ids) - order.begins  # what is read both ways
    blocks = (words, 1, len(order.context)) if style == "released" else (seen, len(ids) - seen)
    visibility = Staircase.of_blocks(*(length for length in blocks if length))
    known = np.where(order.moved, codes[order.filled], -1)
    return Prompt(ids, positions, places[order.filled], text_length=words, visibility=visibility), known


@dataclass(frozen=True, eq=False)
class Hole:
    """A picture to be completed: text ids (n,) of the vocabulary, its codes (rows * columns,), the random
    stream of what is drawn, and the text ids that guidance moves away from."""

    text: Ids
    codes: Ids
    seed: int
    index: int
    negative: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def fill(
    engine: Engine,
    form: CogLMFormat,
    holes: Sequence[Hole],
    mask: ArrayLike,
    settings: SamplingParams,
    order: Order = "together",
    style: Style = "paper",
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """The codes (rows * columns,) of every picture: the masked ones drawn, the others as they were.

    Args:
        mask: bool (rows, columns), for all pictures.
        order: ``together``: a picture is read once and all regions are filled from one cache;
            ``one_by_one``: it is read again for every region, which then sees all other tokens.
        progress: told the tokens done, and their total.

    Raises CogViewError for an empty mask and codes that do not fit.
    """
    whole = form.checked_mask(mask)
    codes = [form.image_ids(np.where(whole, 0, hole.codes)) for hole in holes]
    steps = [whole] if order == "together" else [_only(region, whole.size) for region in runs(whole)]
    absent, drawn, total = whole.copy(), 0, int(whole.sum()) * len(holes)
    for now in steps or [whole]:
        absent &= ~now
        plan = arrange(now.reshape(form.grid), style, absent)
        jobs = _jobs(form, holes, codes, plan, settings, style)
        report = _after(progress, int((whole & ~now & ~absent).sum()) * len(holes), total)
        for number, tokens in engine.generate(jobs, settings, batch_size, report, first=drawn):
            codes[number] = codes[number].copy()
            codes[number][plan.filled] = tokens
        drawn += len(plan.filled)
    return codes


def _jobs(
    form: CogLMFormat,
    holes: Sequence[Hole],
    codes: Sequence[Ids],
    plan: Arrangement,
    settings: SamplingParams,
    style: Style,
) -> list[SequenceRequest]:
    """A request for every picture; those that read the same share a prompt."""
    prompts: dict[tuple[bytes, bytes], tuple[Prompt, Ids, Prompt | None]] = {}
    jobs = []
    for hole, picture in zip(holes, codes, strict=True):
        key = hole.text.tobytes(), picture.tobytes()
        if key not in prompts:
            prompt, known = prompt_of(form, hole.text, picture, plan, style)
            guided = settings.guidance_scale != 1
            plain = prompt_of(form, hole.negative, picture, plan, style)[0] if guided else None
            prompts[key] = prompt, known, plain
        prompt, known, plain = prompts[key]
        jobs.append(SequenceRequest(prompt, hole.seed, hole.index, plain, known))
    return jobs


def _after(progress: ProgressCallback | None, before: int, total: int) -> ProgressCallback | None:
    """Progress in all regions from that in one; moved tokens count little, so they are not told apart."""
    if progress is None:
        return None
    return lambda done, _: progress(min(total, before + done), total)


def _only(region: tuple[int, int], size: int) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[slice(*region)] = True
    return mask
