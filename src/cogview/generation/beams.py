"""Beam search with a transformer; the search itself is in ``without_model.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogview.generation.decoder import Decoder, prefill
from cogview.generation.engine import TokenConstraint
from cogview.generation.without_model import Beam, Scores, beam_search
from cogview.transformer.cache import KVCache
from cogview.types import Ids


@torch.inference_mode()
def search(
    decoder: Decoder, hidden: Tensor, cache: KVCache, positions: Ids, constraint: TokenConstraint, beams: int
) -> list[Beam]:
    """The best continuations of a prompt, up to ``beams`` of them, the best first.

    Args:
        hidden: (1, h), the hidden state after the prompt.
        cache: of the prompt, batch 1; it is not modified.
        positions: (n,) int64, positions of the tokens to generate, at most n.
    """
    allow, beam_cache = constraint.filter(decoder.rows), cache.expand(1, cache.length + len(positions))

    def score(step: int, parents: Sequence[int], tokens: Sequence[int]) -> Scores:
        nonlocal hidden, beam_cache
        if step:
            beam_cache = beam_cache.select(torch.tensor(parents, device=decoder.device))
            ids = torch.tensor([[token] for token in tokens], device=decoder.device)
            step_positions = torch.full_like(ids, int(positions[step - 1]))
            hidden = prefill(decoder, ids, step_positions, beam_cache)
        logits = decoder.head(hidden).float()
        log_probs = allow(logits, range(len(logits)), [step] * len(logits)).log_softmax(-1)
        scores: Scores = log_probs.double().cpu().numpy()
        return scores

    return beam_search(score, len(positions), decoder.rows.start, constraint.stop, beams)
