"""An engine over the tiny model, and its algorithm written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cogview.generation.engine import Engine, Job, Prompt
from cogview.generation.sampling import Streams, draw, guide, restrict
from cogview.generation.settings import Sampling
from cogview.generation.step import pack
from cogview.generation.text_to_image import prompt_for
from cogview.transformer.model import Transformer
from tests.generation import tiny

CODES = slice(0, tiny.CODES)


SETTINGS = Sampling(top_k=30)


TEXTS = ["a red circle", "蓝色的方块", "", "a blue square, pixel"]


def prompts(positions: str = "fixed") -> list[Prompt]:
    return [prompt_for(tiny.form(positions), tiny.text_tokenizer().encode(text)) for text in TEXTS]


def make_engine(**options: Any) -> Engine:
    return Engine(pack(tiny.transformer(), CODES), **options)


def tokens(
    engine: Engine, jobs: Sequence[Job], settings: Sampling = SETTINGS, **more: Any
) -> NDArray[np.int64]:
    drawn = dict(engine.draw(jobs, settings, **more))
    return np.stack([drawn[i] for i in range(len(jobs))])


@torch.inference_mode()
def by_hand(model: Transformer, job: Job, settings: Sampling) -> list[int]:
    """The whole sequence read anew for every token, no cache, no batch."""
    streams = Streams([(job.seed, job.index)], len(job.prompt.new), "cpu")
    found: list[int] = []

    def logits(prompt: Prompt) -> torch.Tensor:
        ids = torch.tensor([*prompt.ids, *found])
        positions = torch.tensor([*prompt.positions, *prompt.new[: len(found)]])
        return model.logits(model(ids[None], positions[None]), CODES)[:, -1]

    for step in range(len(job.prompt.new)):
        if job.given is not None and job.given[step] >= 0:
            found.append(int(job.given[step]))
            continue
        scores = logits(job.prompt)
        if job.without is not None:
            scores = guide(scores, logits(job.without), settings.guidance)
        found.append(int(draw(restrict(scores, settings), streams.gumbel(step, tiny.CODES))))
    return found
