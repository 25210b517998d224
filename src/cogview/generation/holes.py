"""Images with holes: the order in which a CogLM reads what is known and fills the rest (CogView2, section
3.1), without PyTorch. :mod:`cogview.generation.infilling` describes it.
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
    """An image with holes in the order in which it is read and filled.

    context: (n,) places (of codes) that are read first; filled: (m,) places after them, of which
    ``moved`` (m,) bool are known and start a region; begins: [BOI] is moved too, to the very first.
    """

    context: Ids
    filled: Ids
    moved: Mask
    begins: bool = False


def arrange(mask: ArrayLike, style: Style = "paper", absent: ArrayLike | None = None) -> Arrangement:
    """Order the places of an image.

    Args:
        mask: bool (rows, columns), True where a code is to be generated.
        absent: the same size, True where a code is neither known nor to be generated now.
    """
    hole = np.asarray(mask, dtype=np.bool_)
    flat = hole.ravel()
    gone = np.zeros_like(flat) if absent is None else np.asarray(absent, dtype=np.bool_).ravel()
    if not flat.any():
        raise CogViewError("nothing of the picture is masked; mark what is to be generated again")
    follows = np.zeros_like(hole)  # the next code is masked
    if style == "released":
        follows[:, :-1] = hole[:, 1:]
    else:
        follows.reshape(-1)[:-1] = flat[1:]
    moved = follows.ravel() & ~flat & ~gone
    filled = np.flatnonzero(flat | moved)
    context = np.flatnonzero(~(flat | moved | gone))
    return Arrangement(context, filled, moved[filled], style == "paper" and bool(flat[0]))


def laid_out(
    form: CogLMFormat, text: Ids, codes: Ids, order: Arrangement, style: Style = "paper"
) -> tuple[Prompt, tuple[int, ...], Ids]:
    """What is read, the lengths of its blocks, each of which sees itself and those before it, and the tokens
    after it: known ones, and -1 where one is to be generated.

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
    known = np.where(order.moved, codes[order.filled], -1)
    prompt = Prompt(ids, positions, places[order.filled], text_length=words)
    return prompt, tuple(length for length in blocks if length), known


@dataclass(frozen=True, eq=False)
class Hole:
    """An image to be completed: text ids (n,) of the vocabulary, its codes (rows * columns,), the random
    stream of what is generated, and the text ids that guidance moves away from."""

    text: Ids
    codes: Ids
    seed: int
    index: int
    negative: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def filled(
    generate: Generate,
    see: See,
    form: CogLMFormat,
    holes: Sequence[Hole],
    mask: ArrayLike,
    guided: bool,
    order: Order,
    style: Style,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """The codes (rows * columns,) of every image, the masked ones generated.

    Args:
        generate: jobs, how many numbers of each random stream were used before, progress -> (number of the
            job, tokens).
        see: gives a prompt the visibility of its blocks.
        mask: bool (rows, columns), for all images.
        guided: whether prompts that guidance moves away from are needed.
    """
    whole = form.checked_mask(mask)
    codes = [form.image_ids(np.where(whole, 0, hole.codes)) for hole in holes]
    steps = [whole] if order == "together" else [_only(region, whole.size) for region in runs(whole)]
    absent, drawn, total = whole.copy(), 0, int(whole.sum()) * len(holes)
    for now in steps or [whole]:
        absent &= ~now
        plan = arrange(now.reshape(form.grid), style, absent)
        jobs = _jobs(form, holes, codes, plan, see, guided, style)
        report = _after(progress, int((whole & ~now & ~absent).sum()) * len(holes), total)
        for number, tokens in generate(jobs, drawn, report):
            codes[number] = codes[number].copy()
            codes[number][plan.filled] = tokens
        drawn += len(plan.filled)
    return codes


def _jobs(
    form: CogLMFormat,
    holes: Sequence[Hole],
    codes: Sequence[Ids],
    plan: Arrangement,
    see: See,
    guided: bool,
    style: Style,
) -> list[Job]:
    """A job for every image; those that read the same share a prompt."""

    def read(text: Ids, picture: Ids) -> tuple[Prompt, Ids]:
        prompt, blocks, known = laid_out(form, text, picture, plan, style)
        return see(prompt, blocks), known

    prompts: dict[tuple[bytes, bytes], tuple[Prompt, Ids, Prompt | None]] = {}
    jobs = []
    for hole, picture in zip(holes, codes, strict=True):
        key = hole.text.tobytes(), picture.tobytes()
        if key not in prompts:
            prompt, known = read(hole.text, picture)
            prompts[key] = prompt, known, read(hole.negative, picture)[0] if guided else None
        prompt, known, plain = prompts[key]
        jobs.append((prompt, hole.seed, hole.index, plain, known))
    return jobs


def _after(progress: ProgressCallback | None, before: int, total: int) -> ProgressCallback | None:
    """Progress in all regions from that in one; moved tokens count little, so they are not counted apart."""
    if progress is None:
        return None
    return lambda done, _: progress(min(total, before + done), total)


def _only(region: tuple[int, int], size: int) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[slice(*region)] = True
    return mask
