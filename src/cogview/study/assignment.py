"""Assignment of captions, images and their order to raters, from one seed.

Raters come in pairs (1 and 2, 3 and 4, ...). Both of a pair see the same captions and opposite images of
the A-B test, so that after any even number of raters every caption has as many answers for one model as for
the other; which of the pair is in which half is random. Every rater has a separate random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cogview.study.records import Study


@dataclass(frozen=True)
class Task:
    """One group for a rater. group: its index in the study; models: in display order."""

    group: int
    models: tuple[str, ...]


def half_of(study: Study, rater: int) -> int:
    """0 or 1: the half (``E_a`` or ``E_b``) of rater ``rater`` (from 1)."""
    pair, member = divmod(rater - 1, 2)
    return member ^ Random(f"{study.seed} half {pair}").getrandbits(1)


def tasks_for(study: Study, rater: int) -> tuple[Task, ...]:
    """The tasks of rater ``rater`` (from 1), in order."""
    count, per_rater = len(study.groups), study.captions_per_rater
    deck = list(range(count))
    Random(f"{study.seed} deck").shuffle(deck)
    start = (rater - 1) // 2 * per_rater
    indices = [(start + step) % count for step in range(per_rater)]
    rng = Random(f"{study.seed} order {rater}")
    rng.shuffle(indices)
    return tuple(
        Task(deck[index], tuple(rng.sample(models := _models(study, rater, index), len(models))))
        for index in indices
    )


def _models(study: Study, rater: int, index: int) -> list[str]:
    """The models that a rater sees for a caption of the deck; the A-B test alternates with the captions."""
    hidden = study.ab[(half_of(study, rater) + index) % 2] if study.ab else None
    return [model for model in study.models if model != hidden]
