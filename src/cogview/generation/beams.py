"""Beam search: the likeliest texts by mean log-probability, several followed at once.

Scores are divided by the length, the end token counted, so that short texts have no advantage. The search
ends when no unfinished text can overtake the worst of the finished ones that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cogview.generation.decoder import Decoder, prefill
from cogview.generation.engine import TokenConstraint
from cogview.transformer.cache import KVCache
from cogview.types import Ids


@dataclass(frozen=True)
class Beam:
    """A text: ids of the vocabulary without the end token, and the sum of the log-probabilities of its
    ``length`` tokens, the end token counted."""

    ids: tuple[int, ...]
    total: float
    length: int

    @property
    def score(self) -> float:
        """The mean log-probability of a token, in nats."""
        return self.total / self.length


@torch.inference_mode()
def search(
    decoder: Decoder, hidden: Tensor, cache: KVCache, positions: Ids, constraint: TokenConstraint, beams: int
) -> list[Beam]:
    """The best texts after a prompt, up to ``beams`` of them, the best first.

    Args:
        hidden: (1, h), the state after the prompt; cache: of the prompt, batch 1; it is not changed.
        positions: (n,) int64, of the tokens to be written, at most n.
    """
    allow = constraint.filter(decoder.rows)
    live, done = [Beam((), 0.0, 0)], list[Beam]()
    cache = cache.expand(1, cache.length + len(positions))
    for i, position in enumerate(positions.tolist()):
        logits = decoder.head(hidden).float()
        scores = allow(logits, range(len(logits)), [i] * len(logits)).log_softmax(-1)
        parents, live, ended = _extend(live, scores, decoder.rows.start, constraint.stop, beams)
        done = _best(done + ended, beams)
        if i + 1 == len(positions):
            return _best(done + live, beams)  # texts that are cut
        if not live or (len(done) == beams and _ceiling(live, len(positions)) <= done[-1].score):
            break
        cache = cache.select(torch.tensor(parents, device=decoder.device))
        new = torch.tensor([[beam.ids[-1]] for beam in live], device=decoder.device)
        hidden = prefill(decoder, new, torch.full_like(new, position), cache)
    return done


def _ceiling(live: list[Beam], longest: int) -> float:
    """The best score that unfinished texts can still get: totals only fall, lengths end at ``longest``."""
    return max(beam.total for beam in live) / longest


def _extend(
    live: list[Beam], scores: Tensor, first: int, stop: int | None, beams: int
) -> tuple[list[int], list[Beam], list[Beam]]:
    """The best continuations: parents and beams of those that go on, and those that ended.

    scores: (live, v) log-probabilities; ``first`` is the id of column 0.
    """
    before = torch.tensor([[beam.total] for beam in live], dtype=torch.float64)
    totals = before + scores.double().cpu()
    best = totals.flatten().topk(min(2 * beams, totals.numel()))
    parents, going, ended = [], list[Beam](), list[Beam]()
    for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        parent, token = divmod(place, scores.shape[1])
        old, token = live[parent], token + first
        if total == -torch.inf or len(going) == beams:
            break
        if token == stop:
            ended.append(Beam(old.ids, total, old.length + 1))
        else:
            going.append(Beam((*old.ids, token), total, old.length + 1))
            parents.append(parent)
    return parents, going, ended


def _best(found: list[Beam], beams: int) -> list[Beam]:
    return sorted(found, key=lambda beam: -beam.score)[:beams]
