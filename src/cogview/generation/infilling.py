"""Text-guided infilling of masked image regions (CogView2, section 3.1, "Infilling"; figure 3).

The masked tokens come last, the known tokens come before them as context. A region's first token was never
predicted in training, so the context token that precedes each region is moved to its start. Every token keeps
its position in the image.

All regions are filled together, from one cache, or one by one: then each attends to all known tokens,
including the regions filled before, and only one token is moved at a time.

The style ``released`` follows the published script: a token is moved only if its right neighbour in the same
row is masked, and text, [BOI] and context are three blocks that attend to themselves and the blocks before.
The style ``paper`` has full attention among all of them, as in training; a region that starts at the left
border gets the token at the end of the row above, and one that starts the image gets [BOI].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from numpy.typing import ArrayLike

from cogview.generation.engine import Engine
from cogview.generation.holes import Arrangement as Arrangement
from cogview.generation.holes import InfillRequest as InfillRequest
from cogview.generation.holes import Job, Order, Style, fill_masked, lay_out
from cogview.generation.holes import arrange as arrange
from cogview.generation.loop import SequenceRequest
from cogview.sequences import CogLMFormat
from cogview.sequences.protocols import Prompt
from cogview.transformer.attention import BlockCausal
from cogview.types import Ids, ProgressCallback, SamplingParams


def prompt_of(
    format: CogLMFormat, text: Ids, codes: Ids, order: Arrangement, style: Style = "paper"
) -> tuple[Prompt, Ids]:
    """The prompt, and the tokens that follow it (:func:`cogview.generation.holes.lay_out`)."""
    prompt, blocks, known = lay_out(format, text, codes, order, style)
    return _with_visibility(prompt, blocks), known


def _with_visibility(prompt: Prompt, blocks: tuple[int, ...]) -> Prompt:
    return replace(prompt, visibility=BlockCausal.of_blocks(*blocks))


def fill(
    engine: Engine,
    format: CogLMFormat,
    requests: Sequence[InfillRequest],
    mask: ArrayLike,
    settings: SamplingParams,
    order: Order = "together",
    style: Style = "paper",
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """Generate the masked codes of every image; returns all codes (rows * columns,).

    Args:
        mask: bool (rows, columns), for all images.
        order: ``together``: an image is read once and all regions are filled from one cache;
            ``one_by_one``: it is read again for every region, which then attends to all other tokens.
        progress: called with the number of finished tokens, and their total.

    Raises:
        CogViewError: the mask is empty, or codes do not fit the format.
    """

    def generate(jobs: list[Job], first: int, report: ProgressCallback | None) -> Iterator[tuple[int, Ids]]:
        sequences = [SequenceRequest(*job) for job in jobs]
        return engine.generate(sequences, settings, batch_size, report, first=first)

    guided = settings.guidance_scale != 1
    return fill_masked(generate, _with_visibility, format, requests, mask, guided, order, style, progress)
