"""Sprites: every drawing of the corpus on a transparent ground, rendered when asked for.

:func:`load_sprites` lists them; ``Sprite.image()`` renders one. Variants (:mod:`variants`) and scenes are
composed from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from sources.drawing import Name, Words, iconify_svg, load_json, render_svg
from sources.styles import STYLES

if TYPE_CHECKING:
    from things import Thing

SIDE = 256
VISIBLE = 8  # of 255: less opaque pixels do not count for the box
Box = tuple[int, int, int, int]


class Picture(Protocol):
    """Where a sprite's pixels come from; hashable, so that what was rendered can be looked up."""

    def render(self, side: int, paint: str | None) -> Image.Image:
        """The drawing, ``side`` pixels on its longer side, its one colour replaced by ``paint``."""
        ...


@dataclass(frozen=True)
class Icon:
    """One icon of an Iconify set; where ``paints`` are given, those colours of it can be replaced.

    own: the paint that it has by itself ("": as in the set).
    """

    folder: Path
    name: str
    flip: bool = False
    paints: tuple[str, ...] = ()
    own: str = ""

    def render(self, side: int, paint: str | None) -> Image.Image:
        icons = icon_set(self.folder)
        body = icons["icons"][self.name]["body"]
        for old in self.paints if paint or self.own else ():
            body = body.replace(old, paint or self.own)
        return render_svg(iconify_svg(icons, self.name, body, self.flip), side)


@dataclass(frozen=True)
class File:
    """A picture file: SVG of any size, or pixels."""

    path: Path

    def render(self, side: int, paint: str | None) -> Image.Image:
        if self.path.suffix == ".svg":
            return render_svg(self.path.read_text("utf-8", "replace"), side)
        image = Image.open(self.path)
        scale = side / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Sprite:
    """One drawing, not rendered yet.

    key: unique, ``noto/dog-face``; source: the module that lists it (``emoji``, ``icon``, …); style: a key of
    :data:`~sources.styles.STYLES`; thing: its id in ``things.yaml`` or ""; concept: what is shown, whatever
    the style; names: what it may be called; house: whether it is its thing's drawing in the house style;
    mirror, recolour: whether its variants may; aspects: what of it can be said besides; paints: whether
    ``image`` takes a ``paint`` (``#rrggbb``); split: of the drawing as it is (``train``, ``test_comp``,
    ``test_concept``, ``style``, ``drop``).
    """

    key: str
    source: str
    style: str
    concept: str
    names: tuple[Name, ...]
    licence: str
    split: str
    picture: Picture
    thing: str = ""
    house: bool = False
    mirror: bool = True
    recolour: bool = True
    paints: bool = False
    aspects: tuple[Words, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def style_words(self) -> Words:
        """What the style is called."""
        return STYLES[self.style].words

    def image(self, paint: str | None = None) -> Image.Image:
        """The whole drawing, RGBA, 256 x 256 pixels. Treat it as read-only: it is kept for the next call."""
        return _rendered(self.picture, paint)

    def box(self, paint: str | None = None) -> Box:
        """Left, top, right, bottom of what is visible in :meth:`image`; ValueError where nothing is."""
        return _visible(self.image(paint), self.key)

    def cut(self, paint: str | None = None) -> Image.Image:
        """The visible part, RGBA, its longer side about 256 pixels; ValueError where nothing is visible."""
        return _cut(self, paint)

    def small(self, paint: str | None = None) -> Image.Image:
        """The visible part of the drawing at half the size, for measuring; ValueError where nothing is."""
        image = self.picture.render(SIDE // 2, paint).convert("RGBA")
        return image.crop(_visible(image, self.key))


_IS_VISIBLE = [0] * (VISIBLE + 1) + [255] * (255 - VISIBLE)


@lru_cache(maxsize=512)  # 256 KB each
def _rendered(picture: Picture, paint: str | None) -> Image.Image:
    image = picture.render(SIDE, paint).convert("RGBA")
    if image.size == (SIDE, SIDE):
        return image
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square


@lru_cache(maxsize=128)
def _cut(sprite: Sprite, paint: str | None) -> Image.Image:
    """Small drawings in a large frame are rendered larger, so that enlarging never blurs them."""
    box = sprite.box(paint)
    scale = SIDE / max(box[2] - box[0], box[3] - box[1])
    if scale < 1.25:
        return sprite.image(paint).crop(box)
    large = sprite.picture.render(min(round(SIDE * scale), 4 * SIDE), paint).convert("RGBA")
    return large.crop(_visible(large, sprite.key))


def _visible(image: Image.Image, key: str) -> Box:
    box = image.getchannel("A").point(_IS_VISIBLE).getbbox()
    if box is None:
        raise ValueError(f"{key} is blank")
    return box


@cache
def icon_set(folder: Path) -> dict[str, Any]:
    """An Iconify set's ``icons.json``."""
    icons: dict[str, Any] = load_json(folder / "icons.json")
    return icons


def load_sprites(
    packages: Path,
    things: Mapping[str, Thing] | None = None,
    rare: Collection[str] = (),
    sources: Sequence[str] | None = None,
) -> list[Sprite]:
    """All sprites of the unpacked packages, in a fixed order; the same list again for the same arguments.

    ``things``: the entries of ``things.yaml`` (default: none, no sprite shows a thing); ``rare``: the code
    points and slugs of what is withheld wholly; ``sources``: those to list (default: all; avatars are not
    among them, they are drawn from numbers).
    """
    from sources.listing import listed  # which lists what this module defines
    from sources.thing_index import ThingIndex

    return listed(packages, ThingIndex(things or {}, rare), sources)
