"""Text to image: a caption's tokens, the codes drawn after them, and the pictures the codes stand for.

The sequence is [ROI1] text [BASE] [BOI1] codes (CogView, section 2.1); a style is part of the caption, as in
"a cat, watercolour style" (section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cogview.errors import CogViewError
from cogview.generation import memory
from cogview.generation.engine import Engine, Ids, Job, Progress, Prompt, Watch
from cogview.generation.languages import language
from cogview.generation.settings import Sampling
from cogview.sequences import SequenceFormat
from cogview.tokenizers.images import AnyImageTokenizer


def styled(text: str, phrases: Mapping[str, str], templates: Mapping[str, str]) -> str:
    """``text`` with a style in its own language; ``phrases`` and ``templates`` by language."""
    spoken = language(text)
    if spoken not in phrases or spoken not in templates:
        raise CogViewError(f"this style has no words in the prompt's language ({spoken})")
    return templates[spoken].replace("{style}", phrases[spoken]).replace("{caption}", text)


def prompt_for(form: SequenceFormat, pieces: Sequence[int]) -> Prompt:
    """What the engine reads for a caption of text pieces; CogViewError where they are too many."""
    read, new = form.prompt(pieces), form.code_positions(len(pieces))
    return Prompt(read.ids, read.positions, new, read.prefix, form.words(len(pieces)))


def draw_codes(
    engine: Engine,
    form: SequenceFormat,
    captions: Sequence[Sequence[int]],
    pictures: Sequence[tuple[int, int, int]],
    settings: Sampling,
    batch_size: int | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Iterator[tuple[int, Ids]]:
    """Codes (rows * columns,) of every picture, as (its number in ``pictures``, codes), as they are done.

    Args:
        captions: text pieces of each caption; each is read once.
        pictures: (number of its caption, seed, index) of each picture.
        watch: called after each token; see :meth:`Engine.draw`.
    """
    prompts = [prompt_for(form, caption) for caption in captions]
    empty = prompt_for(form, ()) if settings.guidance != 1 else None
    jobs = [Job(prompts[caption], seed, index, empty) for caption, seed, index in pictures]
    yield from engine.draw(jobs, settings, batch_size, progress, watch=watch)


@torch.inference_mode()
def paint(tokenizer: AnyImageTokenizer, codes: Ids, grid: tuple[int, int]) -> Image.Image:
    """The picture of codes (rows * columns,), RGB, clamped; one at a time, so that batches do not matter.

    Raises CogViewError where memory runs out.
    """
    device = next(tokenizer.parameters()).device
    try:
        image = tokenizer.decode(torch.from_numpy(codes)[None].to(device), grid)[0]
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        here = f"out of memory on {device} while painting {grid[0]} x {grid[1]} codes"
        raise CogViewError(f"{here}; close other programs") from error
    pixels: NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)
