"""All sources in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sources.clipart import clipart_sprites
from sources.emoji import emoji_sprites
from sources.flags import flag_sprites
from sources.icon_sets import game_icon_sprites, icon_set_sprites
from sources.icons import icon_sprites
from sources.sprites import Sprite
from sources.thing_index import ThingIndex

SOURCES: dict[str, Callable[[Path, ThingIndex], Iterator[Sprite]]] = {
    "emoji": emoji_sprites,
    "icons": icon_set_sprites,
    "icon": icon_sprites,
    "game": game_icon_sprites,
    "flag": flag_sprites,
    "clip": clipart_sprites,
}


def listed(packages: Path, things: ThingIndex, sources: Sequence[str] | None = None) -> list[Sprite]:
    """See :func:`sources.sprites.load_sprites`."""
    chosen = [name for name in SOURCES if sources is None or name in sources]
    return [sprite for name in chosen for sprite in SOURCES[name](packages, things)]
