"""An engine over the tiny model, and its algorithm written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.sampling import Streams, filter_logits, guide, gumbel_sample
from cogview.sequences import Prompt
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from tests.generation import tiny

CODES = slice(0, tiny.CODES)


SETTINGS = SamplingParams(top_k=30)


TEXTS = ["a red circle", "蓝色的方块", "", "a blue square, pixel"]


def prompts(positions: str = "fixed") -> list[Prompt]:
    return [tiny.form(positions).image_prompt(tiny.text_tokenizer().encode(text)) for text in TEXTS]


def make_engine(**options: Any) -> Engine:
    return Engine(pack(tiny.transformer(), CODES), **options)


def tokens(
    engine: Engine, jobs: Sequence[SequenceRequest], settings: SamplingParams = SETTINGS, **more: Any
) -> NDArray[np.int64]:
    drawn = dict(engine.generate(jobs, settings, **more))
    return np.stack([drawn[i] for i in range(len(jobs))])


@torch.inference_mode()
def by_hand(model: Transformer, job: SequenceRequest, settings: SamplingParams) -> list[int]:
    """The whole sequence read anew for every token, no cache, no batch."""
    streams = Streams([(job.seed, job.index)], len(job.prompt.decode_positions), "cpu")
    found: list[int] = []

    def logits(prompt: Prompt) -> torch.Tensor:
        ids = torch.tensor([*prompt.ids, *found])
        positions = torch.tensor([*prompt.positions, *prompt.decode_positions[: len(found)]])
        return model.logits(model(ids[None], positions[None]), CODES)[:, -1]

    for step in range(len(job.prompt.decode_positions)):
        if job.known_tokens is not None and job.known_tokens[step] >= 0:
            found.append(int(job.known_tokens[step]))
            continue
        scores = logits(job.prompt)
        if job.negative_prompt is not None:
            scores = guide(scores, logits(job.negative_prompt), settings.guidance_scale)
        found.append(int(gumbel_sample(filter_logits(scores, settings), streams.gumbel(step, tiny.CODES))))
    return found
