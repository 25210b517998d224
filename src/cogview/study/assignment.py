"""Who sees what: groups of captions, the halves of the A-B test, and the order, all drawn from one seed.

Raters come in pairs (1 and 2, 3 and 4, ...). Both of a pair see the same captions and opposite images of
the A-B test, so that every caption has as many answers for the one as for the other after any even number
of raters; which of the pair is in which half is drawn. Orders are a rater's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cogview.study.records import Study


@dataclass(frozen=True)
class Task:
    """One group as a rater sees it. group: its number in the study; models: in the order shown."""

    group: int
    models: tuple[str, ...]


def half_of(study: Study, rater: int) -> int:
    """0 or 1: the half (``E_a`` or ``E_b``) that rater ``rater`` (from 1) belongs to."""
    pair, member = divmod(rater - 1, 2)
    return member ^ Random(f"{study.seed} half {pair}").getrandbits(1)


def tasks_for(study: Study, rater: int) -> tuple[Task, ...]:
    """What rater ``rater`` (from 1) is asked, in order."""
    count, asked = len(study.groups), study.captions_per_rater
    deck = list(range(count))
    Random(f"{study.seed} deck").shuffle(deck)
    start = (rater - 1) // 2 * asked
    places = [(start + step) % count for step in range(asked)]
    order = Random(f"{study.seed} order {rater}")
    order.shuffle(places)
    return tuple(
        Task(deck[place], tuple(order.sample(shown := _models(study, rater, place), len(shown))))
        for place in places
    )


def _models(study: Study, rater: int, place: int) -> list[str]:
    """The models a rater sees for the caption at a place of the deck: captions alternate between halves."""
    hidden = study.ab[(half_of(study, rater) + place) % 2] if study.ab else None
    return [model for model in study.models if model != hidden]
