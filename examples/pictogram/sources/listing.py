"""All sources in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sources.emoji import emoji_sprites
from sources.sprites import Sprite
from sources.thing_index import ThingIndex, one_house_each

SOURCES: dict[str, Callable[[Path, ThingIndex], Iterator[Sprite]]] = {
    "emoji": emoji_sprites,
}


def listed(
    packages: Path, things: Mapping[str, Any] | None = None, sources: Sequence[str] | None = None
) -> list[Sprite]:
    """See :func:`sources.sprites.load_sprites`."""
    index = ThingIndex(things or {})
    sprites = (
        sprite
        for name in SOURCES
        if sources is None or name in sources
        for sprite in SOURCES[name](packages, index)
    )
    return list(one_house_each(sprites))
