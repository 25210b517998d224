"""Combinations that no training picture shows, though both parts are trained on: decided by hashes of names.

Of pictures of several things: pairs, counts, relations and places. Which colours of a thing and which styles
are withheld is in ``splits.py``.
"""

from __future__ import annotations

from sources.drawing import fraction

PAIR, COUNT, RELATION, PLACE = 0.08, 0.2, 0.1, 0.08  # shares of all combinations of a kind
MIRRORED = {"right": "left", "below": "above"}  # "a right of b" is withheld where "b left of a" is


def pair_withheld(first: str, second: str) -> bool:
    """Whether two different things are never shown together, in whatever order they are given."""
    return fraction("scene-pair", *sorted((first, second))) < PAIR


def count_withheld(thing: str, count: int) -> bool:
    """Whether so many of the thing, two or more, are never shown together."""
    return count > 1 and fraction("scene-count", thing, count) < COUNT


def relation_withheld(relation: str, first: str, second: str) -> bool:
    """Whether the first thing is never shown left of, right of, above, below, on or behind the second."""
    if relation in MIRRORED:
        relation, first, second = MIRRORED[relation], second, first
    return fraction("scene-relation", relation, first, second) < RELATION


def place_withheld(thing: str, place: str) -> bool:
    """Whether the thing is never shown in a landscape (``grass``, ``sea``, …)."""
    return fraction("scene-place", thing, place) < PLACE
