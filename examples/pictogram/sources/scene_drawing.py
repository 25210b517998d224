"""Draws scenes: the background, then the things' drawings over it, each reduced once from 256 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from colours import PAINTS, repaint
from PIL import Image

from sources.scenes import Placed, Scene


class Drawing(Protocol):
    """A thing's drawing in the house style: a :class:`~sources.sprites.Sprite`."""

    @property
    def paints(self) -> bool:
        """Whether it is a drawing of one colour that ``cut`` can replace."""
        ...

    def cut(self, paint: str | None = None) -> Image.Image:
        """The visible part, RGBA, its longer side about 256 pixels."""
        ...


class House:
    """The house-style drawings of things, by their keys; what was rendered is kept (0.2 MB a thing)."""

    def __init__(self, drawings: Mapping[str, Drawing]) -> None:
        self.drawings = drawings
        self._cut: dict[tuple[str, str | None], Image.Image] = {}

    def drawing(self, thing: str, paint: str | None = None) -> Image.Image:
        """The visible part of a thing's drawing, RGBA; ``paint`` is for drawings of one colour."""
        if (thing, paint) not in self._cut:
            self._cut[thing, paint] = self.drawings[thing].cut(paint)
        return self._cut[thing, paint]

    def placed(self, one: Placed) -> Image.Image:
        """The drawing as it stands in a scene: painted, turned round, of the size of its box, RGBA."""
        left, top, right, bottom = one.box
        size = right - left, bottom - top
        if one.colour and not self.drawings[one.thing].paints:
            image = self._repainted(one.thing, one.colour, size)
        else:
            image = _reduced(self.drawing(one.thing, PAINTS[one.colour] if one.colour else None), size)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if one.mirror else image

    def _repainted(self, thing: str, colour: str, size: tuple[int, int]) -> Image.Image:
        """A drawing in a colour: painted when it is reduced (five times as fast), or before if that fails."""
        drawing = self.drawing(thing)
        painted = repaint(_reduced(drawing, size), PAINTS[colour])
        if painted is None:
            whole = repaint(drawing, PAINTS[colour])
            painted = _reduced(whole, size) if whole else None
        if painted is None:
            raise ValueError(f"{thing} cannot be painted {colour}")
        return painted

    def draw(self, scene: Scene) -> Image.Image:
        """The picture of a scene, 256 x 256 RGB; ValueError where a thing cannot have its colour."""
        image = scene.background.paint()
        for one in scene.painted:
            drawing = self.placed(one)
            image.paste(drawing, one.box[:2], drawing)
        return image


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
