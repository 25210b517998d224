"""The token order in which a CogLM reads the known part of an image and fills the masked part (CogView2,
section 3.1), without PyTorch. See :mod:`cogview.generation.infilling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cogview.errors import CogViewError
from cogview.sequences.coglm import CogLMFormat
from cogview.sequences.masks import runs
from cogview.sequences.protocols import Prompt
from cogview.types import Ids, ProgressCallback

Order = Literal["together", "one_by_one"]
Style = Literal["paper", "released"]
Mask = NDArray[np.bool_]
Job = tuple[Prompt, int, int, Prompt | None, Ids]  # prompt, seed, index, negative prompt, known tokens
See = Callable[[Prompt, tuple[int, ...]], Prompt]
Generate = Callable[[list[Job], int, ProgressCallback | None], Iterator[tuple[int, Ids]]]


@dataclass(frozen=True)
class Arrangement:
    """The order in which a masked image is read and filled.

    context: (n,) places (of codes) that are read first; filled: (m,) places after them; moved: (m,) bool,
    those of them that are known and start a region; begins: [BOI] is moved as well, since the first code is
    masked.
    """

    context: Ids
    filled: Ids
    moved: Mask
    begins: bool = False


def arrange(mask: ArrayLike, style: Style = "paper", absent: ArrayLike | None = None) -> Arrangement:
    """Order the places of an image.

    Args:
        mask: bool (rows, columns), True where a code is to be generated.
        absent: the same size, True where a code is neither known nor generated now.
    """
    masked = np.asarray(mask, dtype=np.bool_)
    flat = masked.ravel()
    excluded = np.zeros_like(flat) if absent is None else np.asarray(absent, dtype=np.bool_).ravel()
    if not flat.any():
        raise CogViewError("no part of the image is masked; mask the part to generate again")
    next_masked = np.zeros_like(masked)
    if style == "released":
        next_masked[:, :-1] = masked[:, 1:]
    else:
        next_masked.reshape(-1)[:-1] = flat[1:]
    moved = next_masked.ravel() & ~flat & ~excluded
    filled = np.flatnonzero(flat | moved)
    context = np.flatnonzero(~(flat | moved | excluded))
    return Arrangement(context, filled, moved[filled], style == "paper" and bool(flat[0]))


def lay_out(
    format: CogLMFormat, text: Ids, codes: Ids, order: Arrangement, style: Style = "paper"
) -> tuple[Prompt, tuple[int, ...], Ids]:
    """The prompt, the lengths of its blocks, and the tokens that follow (-1 for those to generate).

    Each block attends to itself and the blocks before it.

    Args:
        text: (n,) ids of the vocabulary. Those of the released script end with [BOI], which then comes twice.
        codes: (rows * columns,); masked codes are ignored.
    """
    code_positions, text_length = format.code_positions(), len(text)
    words = np.arange(text_length), text
    begin = np.array([format.begin_position]), np.array([format.begin_id])
    context = code_positions[order.context], codes[order.context]
    parts = (words, context, begin) if order.begins else (words, begin, context)
    positions, ids = (np.concatenate([part[i] for part in parts]).astype(np.int64) for i in (0, 1))
    bidirectional = len(ids) - order.begins
    blocks = (
        (text_length, 1, len(order.context))
        if style == "released"
        else (bidirectional, len(ids) - bidirectional)
    )
    known = np.where(order.moved, codes[order.filled], -1)
    prompt = Prompt(ids, positions, code_positions[order.filled], text_length=text_length)
    return prompt, tuple(length for length in blocks if length), known


@dataclass(frozen=True, eq=False)
class InfillRequest:
    """An image to fill in.

    text: (n,) ids of the vocabulary; codes: (rows * columns,); seed, index: the random stream; negative:
    the text ids that guidance moves away from.
    """

    text: Ids
    codes: Ids
    seed: int
    index: int
    negative: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def fill_masked(
    generate: Generate,
    see: See,
    format: CogLMFormat,
    requests: Sequence[InfillRequest],
    mask: ArrayLike,
    guided: bool,
    order: Order,
    style: Style,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """Generate the masked codes of every image; returns all codes (rows * columns,).

    Args:
        generate: called with jobs, how many numbers of each random stream were used before, and progress;
            yields (number of the job, tokens).
        see: returns a prompt with the visibility of its blocks.
        mask: bool (rows, columns), for all images.
        guided: whether negative prompts are needed.
    """
    full_mask = format.checked_mask(mask)
    codes = [format.image_ids(np.where(full_mask, 0, request.codes)) for request in requests]
    steps = [full_mask] if order == "together" else [_only(run, full_mask.size) for run in runs(full_mask)]
    absent, used, total = full_mask.copy(), 0, int(full_mask.sum()) * len(requests)
    for step_mask in steps or [full_mask]:
        absent &= ~step_mask
        plan = arrange(step_mask.reshape(format.grid), style, absent)
        jobs = _jobs(format, requests, codes, plan, see, guided, style)
        report = _after(progress, int((full_mask & ~step_mask & ~absent).sum()) * len(requests), total)
        for number, tokens in generate(jobs, used, report):
            codes[number] = codes[number].copy()
            codes[number][plan.filled] = tokens
        used += len(plan.filled)
    return codes


def _jobs(
    format: CogLMFormat,
    requests: Sequence[InfillRequest],
    codes: Sequence[Ids],
    plan: Arrangement,
    see: See,
    guided: bool,
    style: Style,
) -> list[Job]:
    """A job for every image; images with the same text and codes share a prompt."""

    def read(text: Ids, image: Ids) -> tuple[Prompt, Ids]:
        prompt, blocks, known = lay_out(format, text, image, plan, style)
        return see(prompt, blocks), known

    prompts: dict[tuple[bytes, bytes], tuple[Prompt, Ids, Prompt | None]] = {}
    jobs = []
    for request, image in zip(requests, codes, strict=True):
        key = request.text.tobytes(), image.tobytes()
        if key not in prompts:
            prompt, known = read(request.text, image)
            prompts[key] = prompt, known, read(request.negative, image)[0] if guided else None
        prompt, known, negative = prompts[key]
        jobs.append((prompt, request.seed, request.index, negative, known))
    return jobs


def _after(progress: ProgressCallback | None, before: int, total: int) -> ProgressCallback | None:
    """Progress over all regions, from that in one; the few moved tokens are not distinguished."""
    if progress is None:
        return None
    return lambda done, _: progress(min(total, before + done), total)


def _only(run: tuple[int, int], size: int) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[slice(*run)] = True
    return mask
