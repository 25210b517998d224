"""Filling holes of an image by a sentence (CogView2, section 3.1, "Infilling"; figure 3).

The masked tokens come last; what is known comes before them, as context. A region's first token was never
predicted in training, so the context token in front of each region is moved to it and starts it. Every token
keeps the position it has in the image.

All regions are filled in one go, from one cache, or one after the other: then each sees all that is known,
the regions before it among them, and only one token is moved at a time.

``released`` does what the published script does: a token is moved only where its right neighbour in its own
row is masked, and text, [BOI] and context are three blocks that see what came before them and themselves.
Otherwise all of them see each other, as in training, a region that starts at the left border gets the token
at the end of the row above, and one that starts the image gets [BOI].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from numpy.typing import ArrayLike

from cogview.generation.engine import Engine
from cogview.generation.holes import Arrangement as Arrangement
from cogview.generation.holes import Hole as Hole
from cogview.generation.holes import Job, Order, Style, filled, laid_out
from cogview.generation.holes import arrange as arrange
from cogview.generation.loop import SequenceRequest
from cogview.sequences import CogLMFormat
from cogview.sequences.protocols import Prompt
from cogview.transformer.attention import BlockCausal
from cogview.types import Ids, ProgressCallback, SamplingParams


def prompt_of(
    form: CogLMFormat, text: Ids, codes: Ids, order: Arrangement, style: Style = "paper"
) -> tuple[Prompt, Ids]:
    """What is read, and the tokens after it (:func:`cogview.generation.holes.laid_out`)."""
    prompt, blocks, known = laid_out(form, text, codes, order, style)
    return _seen(prompt, blocks), known


def _seen(prompt: Prompt, blocks: tuple[int, ...]) -> Prompt:
    return replace(prompt, visibility=BlockCausal.of_blocks(*blocks))


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
    """The codes (rows * columns,) of every image: the masked ones drawn, the others as they were.

    Args:
        mask: bool (rows, columns), for all images.
        order: ``together``: an image is read once and all regions are filled from one cache;
            ``one_by_one``: it is read again for every region, which then sees all other tokens.
        progress: called with the number of tokens done, and their total.

    Raises CogViewError for an empty mask and codes that do not fit.
    """

    def generate(jobs: list[Job], first: int, report: ProgressCallback | None) -> Iterator[tuple[int, Ids]]:
        requests = [SequenceRequest(*job) for job in jobs]
        return engine.generate(requests, settings, batch_size, report, first=first)

    guided = settings.guidance_scale != 1
    return filled(generate, _seen, form, holes, mask, guided, order, style, progress)
