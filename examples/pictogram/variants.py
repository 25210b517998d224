"""Variants of a drawing: where it stands, how large, mirrored, in which colour, before what.

A :class:`Variant` says all that decides the pixels; :func:`compose` makes them. :func:`variant` chooses the
one of a number, always the same: places and sizes vary freely, for what has to know every drawing in every
place (the image tokenizer, the judges). :func:`training_variants` are what a transformer learns: the same few
places for all drawings, whole codes of the image tokenizer apart, since a shift by part of a code changes
every code and each drawing would have to be learnt anew in each place.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from backgrounds import PLAIN, SCENES, SIDE, Background
from colours import PAINTS, repaint
from PIL import Image
from sources.sprites import Sprite

PLACES = {
    "top left": (0.0, 0.0), "top": (0.5, 0.0), "top right": (1.0, 0.0),
    "left": (0.0, 0.5), "right": (1.0, 0.5),
    "bottom left": (0.0, 1.0), "bottom": (0.5, 1.0), "bottom right": (1.0, 1.0),
}  # fmt: skip
MARGIN = 8  # pixels between a drawing and the edge
CELL = SIDE / 12  # pixels of a code
PLACINGS = (  # size in pixels, codes to the right and down; every second one is mirrored where that may be
    (218, 0, 0), (218, 0, 0), (238, 0, 0), (196, 0, 0), (196, 0, 0), (176, 1, 0), (176, -1, 0), (176, 0, 1),
)  # fmt: skip
EDGE_SIZE, EDGE_MARGIN = 86, 21  # four codes, one code from the edge
FOOT = round(11 * CELL)  # where things stand on a ground
SHADES = 3  # of a background's colours, and of a landscape's shapes
STANDING = frozenset(kind for kind in SCENES if SCENES[kind].ground < 1)


@dataclass(frozen=True)
class Variant:
    """One way to show a drawing.

    size: of its longer side, pixels; x, y: its centre, pixels (y: its foot, where it ``stands``); place: a
    key of ``PLACES`` where it is small and at an edge, else ""; colour: a named one it was given, "" for its
    own.
    """

    size: int
    x: int
    y: int
    place: str = ""
    mirrored: bool = False
    colour: str = ""
    background: Background = field(default_factory=Background)
    stands: bool = False

    @property
    def natural(self) -> bool:
        """Whether this is what a bare name means: large, in its own colours, on white."""
        return not self.place and not self.colour and self.background.kind == "white"

    def as_json(self) -> dict[str, Any]:
        """A dictionary of numbers and texts; :meth:`from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Variant:
        """The variant that :meth:`as_json` wrote."""
        return cls(**{**data, "background": Background(**data["background"])})


@dataclass(frozen=True)
class Mix:
    """What share of a drawing's variants is plain to see, and what share is something else.

    natural: on white in its own colours; coloured: recoloured on white; behind: before a background; both:
    recoloured before one. The rest is natural but small and at an edge.
    """

    natural: float = 0.5
    coloured: float = 0.14
    behind: float = 0.2
    both: float = 0.1


def variant(
    key: str, number: int, mix: Mix, colours: Sequence[str], own: Sequence[str], mirror: bool
) -> Variant:
    """The variant of a number (0 is the drawing itself, large and in the middle).

    ``colours`` it may be given, ``own`` colours that no plain background should have; ``mirror``: whether it
    may be turned round.
    """
    if number == 0:
        return Variant(218, SIDE // 2, SIDE // 2)
    chance = random.Random(f"variant:{key}:{number}")
    what, colour, background = chance.random(), "", Background()
    if colours and mix.natural <= what < mix.natural + mix.coloured + mix.both:
        colour = chance.choice(colours)
    both = mix.natural + mix.coloured <= what < mix.natural + mix.coloured + mix.both
    rest = mix.natural + mix.coloured + mix.both
    if both or rest <= what < rest + mix.behind:
        background = _background(chance, [colour] if colour else own)
    elif colour == "white":
        background = _plain(chance, ["white"])
    flipped = mirror and chance.random() < 0.5
    edge = what >= rest + mix.behind or (what >= mix.natural and chance.random() < 0.12)
    return _placed(chance, edge, flipped, colour, background)


@dataclass(frozen=True)
class Amounts:
    """How many training variants a drawing has, by what is special about them."""

    natural: int = 2
    coloured: int = 0
    plain: int = 0
    gradient: int = 0
    landscape: int = 0
    both: int = 0
    edge: int = 0


def training_variants(
    key: str, amounts: Amounts, colours: Sequence[str], own: Sequence[str], mirror: bool
) -> list[Variant]:
    """What is learnt of a drawing; arguments as for :func:`variant`."""
    chance = random.Random(f"training:{key}")
    first = Variant(PLACINGS[0][0], SIDE // 2, SIDE // 2)
    found = [
        Variant(size, SIDE // 2 + round(right * CELL), SIDE // 2 + round(down * CELL), mirrored=flipped)
        for number, (size, right, down) in enumerate(PLACINGS[: amounts.natural])
        for flipped in [mirror and number % 2 == 1]
    ]
    paints = chance.sample(list(colours), min(len(colours), amounts.coloured + amounts.both))
    for colour in paints[: amounts.coloured]:
        ground = _shaded(_plain(chance, ["white"])) if colour == "white" else Background()
        found.append(replace(first, colour=colour, background=ground))
    for colour in paints[amounts.coloured :]:
        found.append(replace(first, colour=colour, background=_shaded(_plain(chance, [colour]))))
    for _ in range(amounts.plain):
        found.append(replace(first, background=_shaded(_plain(chance, own))))
    for _ in range(amounts.gradient):
        found.append(replace(first, background=_shaded(replace(_plain(chance, own), kind="gradient"))))
    fitting = [kind for kind in SCENES if not set(SCENES[kind].colours) & set(own[:1])]
    for kind in chance.sample(fitting, min(len(fitting), amounts.landscape)):
        ground, stands = Background(kind, "", chance.randrange(SHADES)), kind in STANDING
        x = SIDE // 2 + round(chance.choice((-1, 0, 1)) * CELL)
        y = FOOT if stands else SIDE // 2
        found.append(Variant(176, x, y, "", mirror and chance.random() < 0.5, "", ground, stands))
    half = EDGE_SIZE // 2 + EDGE_MARGIN
    for place in chance.sample(list(PLACES), amounts.edge):
        x, y = (round(half + part * (SIDE - 2 * half)) for part in PLACES[place])
        found.append(Variant(EDGE_SIZE, x, y, place, mirror and chance.random() < 0.5))
    return found


def _shaded(background: Background) -> Background:
    return replace(background, seed=background.seed % SHADES)


def _background(chance: random.Random, own: Sequence[str]) -> Background:
    what = chance.random()
    if what < 0.45:
        return _plain(chance, own)
    if what < 0.6:
        return Background("gradient", _plain(chance, own).colour, chance.randrange(1 << 16))
    fitting = [kind for kind in SCENES if not set(SCENES[kind].colours) & set(own[:1])]
    return Background(chance.choice(fitting), "", chance.randrange(1 << 16))


def _plain(chance: random.Random, own: Sequence[str]) -> Background:
    colour = chance.choice([name for name in PLAIN if name not in own])
    return Background("plain", colour, chance.randrange(1 << 16))


def _placed(
    chance: random.Random, edge: bool, mirrored: bool, colour: str, background: Background
) -> Variant:
    standing = background.kind in STANDING
    if edge and not standing:
        place, size = chance.choice(list(PLACES)), chance.randint(64, 104)
        across, down = PLACES[place]
        half = size // 2 + MARGIN
        x, y = (round(half + part * (SIDE - 2 * half)) for part in (across, down))
        return Variant(size, x, y, place, mirrored, colour, background)
    size = chance.randint(184, 238) if chance.random() < 0.85 else chance.randint(144, 184)
    if standing:
        size = round(size * 0.8)
    free = (SIDE - size) // 2 - 4
    x, y = (SIDE // 2 + chance.randint(-free, free) // 2 for _ in range(2))
    if standing:
        y = round(chance.uniform(max(background.ground + 0.1, 0.8), 0.96) * SIDE)
    return Variant(size, x, y, "", mirrored, colour, background, standing)


def compose(sprite: Sprite, shown: Variant) -> Image.Image:
    """A variant's pixels, RGB, 256 x 256; ValueError where the drawing is blank or cannot take the colour."""
    image = coloured(sprite, shown.colour)
    scale = shown.size / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    drawing = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if shown.mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = shown.background.paint()
    top = shown.y - (size[1] if shown.stands else size[1] // 2)
    picture.paste(drawing, (shown.x - size[0] // 2, max(2, top)), drawing)
    return picture


@lru_cache(maxsize=256)
def coloured(sprite: Sprite, colour: str) -> Image.Image:
    """A drawing in a named colour ("": its own), trimmed, RGBA; ValueError where it cannot take it."""
    if not colour:
        return sprite.cut()
    if sprite.paints:
        return sprite.cut(PAINTS[colour])
    painted = repaint(sprite.cut(), PAINTS[colour], slack=0.1)
    if painted is None:
        raise ValueError(f"{sprite.key} cannot be {colour}")
    return painted
