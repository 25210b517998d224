"""Beam search by a model: ``without_model.py`` says which texts are followed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogview.generation.decoder import Decoder, prefill
from cogview.generation.engine import TokenConstraint
from cogview.generation.without_model import Beam, Scores, follow
from cogview.transformer.cache import KVCache
from cogview.types import Ids


@torch.inference_mode()
def search(
    decoder: Decoder, hidden: Tensor, cache: KVCache, positions: Ids, constraint: TokenConstraint, beams: int
) -> list[Beam]:
    """The best texts after a prompt, up to ``beams`` of them, the best first.

    Args:
        hidden: (1, h), the state after the prompt; cache: of the prompt, batch 1; it is not changed.
        positions: (n,) int64, of the tokens to be written, at most n.
    """
    allow, held = constraint.filter(decoder.rows), cache.expand(1, cache.length + len(positions))

    def score(step: int, parents: Sequence[int], tokens: Sequence[int]) -> Scores:
        nonlocal hidden, held
        if step:
            held = held.select(torch.tensor(parents, device=decoder.device))
            new = torch.tensor([[token] for token in tokens], device=decoder.device)
            places = torch.full_like(new, int(positions[step - 1]))
            hidden = prefill(decoder, new, places, held)
        logits = decoder.head(hidden).float()
        scores = allow(logits, range(len(logits)), [step] * len(logits)).log_softmax(-1)
        found: Scores = scores.double().cpu().numpy()
        return found

    return follow(score, len(positions), decoder.rows.start, constraint.stop, beams)
