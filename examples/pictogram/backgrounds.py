"""Backgrounds drawn by code, each with its words: plain colours, soft gradients, simple landscapes.

A :class:`Background` says all that decides its pixels; ``paint`` renders it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw
from sources.drawing import COLOURS, Words, with_article

SIDE = 256
RGB = tuple[int, int, int]
PLAIN: dict[str, tuple[str, ...]] = {
    "red": ("#e53935", "#d32f2f", "#f44336"),
    "orange": ("#ff9330", "#fb8c00", "#ff8a3d"),
    "yellow": ("#ffe066", "#fdd835", "#ffeb7a"),
    "green": ("#81c784", "#4caf50", "#a5d6a7"),
    "cyan": ("#7fdbe6", "#26c6da", "#a0e8ef"),
    "blue": ("#64a5f6", "#2f7df0", "#90bdf9"),
    "purple": ("#b085e8", "#9050d8", "#cbaaf2"),
    "pink": ("#f8a5c2", "#f48fb1", "#fbc2d6"),
    "brown": ("#a1764f", "#8d6142", "#7a5234"),
    "gray": ("#bdbdbd", "#9e9e9e", "#a8adb3"),
    "black": ("#1f1f1f", "#111111", "#2a2a2a"),
}  # fmt: skip


@dataclass(frozen=True)
class Background:
    """What is behind a drawing: ``kind`` is ``white``, ``plain``, ``gradient`` or a key of ``SCENES``.

    ``colour`` names the colour of a plain or gradient one; ``seed`` decides shades and shapes.
    """

    kind: str = "white"
    colour: str = ""
    seed: int = 0

    def paint(self) -> Image.Image:
        """The background, RGB, 256 x 256 pixels."""
        if self.kind == "white":
            return Image.new("RGB", (SIDE, SIDE), "white")
        chance = random.Random(self.seed)
        if self.kind == "plain":
            return Image.new("RGB", (SIDE, SIDE), chance.choice(PLAIN[self.colour]))
        if self.kind == "gradient":
            return _gradient_of(self.colour, chance)
        return SCENES[self.kind].paint(chance)

    @property
    def ground(self) -> float:
        """Where the ground begins, from above, as a share of the picture; 1 where there is none."""
        return SCENES[self.kind].ground if self.kind in SCENES else 1.0

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours that a drawing before it should not mainly have."""
        return SCENES[self.kind].colours if self.kind in SCENES else (self.colour or "white",)

    @property
    def phrases(self) -> tuple[Words, ...]:
        """Phrases that say the background, to follow what is before it; none for white."""
        if self.kind == "white":
            return ()
        if self.kind in SCENES:
            return SCENES[self.kind].phrases
        en, zh = with_article(self.colour), COLOURS[self.colour]
        if self.kind == "gradient":
            return (
                Words(f"on {en} gradient background", f"{zh}渐变背景"),
                Words(f"{self.colour} gradient background", f"背景是{zh}渐变"),
            )
        return (
            Words(f"on {en} background", f"{zh}背景"),
            Words(f"{self.colour} background", f"{zh}的背景"),
            Words(f"with {en} background", f"背景是{zh}的"),
            Words(f"against {en} background", f"在{zh}背景前"),
        )


@dataclass(frozen=True)
class Scenery:
    """One landscape: how it is drawn, where its ground begins, what it is called, which colours fill it."""

    paint: Callable[[random.Random], Image.Image]
    ground: float
    phrases: tuple[Words, ...]
    colours: tuple[str, ...]


def _rgb(code: str) -> RGB:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _vertical(top: str | RGB, bottom: str | RGB, height: int = SIDE) -> Image.Image:
    """A gradient from above to below, (SIDE, height)."""
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), _rgb(top) if isinstance(top, str) else top)
    column.putpixel((0, 1), _rgb(bottom) if isinstance(bottom, str) else bottom)
    return column.resize((SIDE, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5))


def _gradient_of(colour: str, chance: random.Random) -> Image.Image:
    """A soft gradient between a shade of the colour and a lighter or darker one, from any side."""
    shade = _rgb(chance.choice(PLAIN[colour]))
    amount = chance.choice((0.35, 0.45, -0.2)) if colour not in ("black", "yellow") else 0.12
    red, green, blue = (round(level + (255 - level if amount > 0 else level) * amount) for level in shade)
    image = _vertical((red, green, blue), shade)
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = chance.choice(turns)
    return image.transpose(turn) if turn is not None else image


def _cloud(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: str) -> None:
    for across, down, radius in ((0, 0, 1.0), (-1.1, 0.25, 0.7), (1.1, 0.2, 0.75), (0.5, -0.4, 0.75)):
        r, cx, cy = radius * size, x + across * size, y + down * size
        draw.ellipse((cx - r, cy - r * 0.8, cx + r, cy + r * 0.8), fill=colour)


def _clouds(image: Image.Image, chance: random.Random, most: float, colour: str = "#ffffff") -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(chance.randint(2, 4)):
        _cloud(
            draw, chance.uniform(0, SIDE), chance.uniform(0.08, most) * SIDE, chance.uniform(9, 20), colour
        )


def _sky(chance: random.Random) -> Image.Image:
    top, bottom = chance.choice((("#4aa3f0", "#bfe3fb"), ("#5fb2f5", "#d8eefc"), ("#3f97ea", "#a9d6f8")))
    image = _vertical(top, bottom)
    _clouds(image, chance, 0.9)
    return image


def _ground(
    image: Image.Image, edge: float, top: str, bottom: str, chance: random.Random, waves: float
) -> None:
    """Lay a ground with a wavy edge over the lower part."""
    points, y = [(0.0, float(SIDE))], edge * SIDE
    phase, bumps = chance.uniform(0, 6.28), chance.uniform(0.6, 1.6)
    for x in range(0, SIDE + 16, 16):
        points.append((x, y + waves * math.sin(phase + bumps * x / 40)))
    points.append((float(SIDE), float(SIDE)))
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).polygon(points, fill=255)
    ground = Image.new("RGB", (SIDE, SIDE))
    start = max(0, round(y - waves) - 2)
    ground.paste(_vertical(top, bottom, SIDE - start), (0, start))
    image.paste(ground, (0, 0), mask)


def _meadow(chance: random.Random) -> Image.Image:
    image = _vertical("#6db8f2", "#dbeffb")
    _clouds(image, chance, 0.4)
    _ground(image, 0.62, "#8fce5f", "#57a63c", chance, 7)
    return image


def _hills(chance: random.Random) -> Image.Image:
    image = _vertical("#7cc0f3", "#e3f2fb")
    _clouds(image, chance, 0.25)
    for edge, top, bottom, wave in ((0.5, "#9cc9a0", "#7fb88a", 22), (0.62, "#7cbd6b", "#69ad5a", 16)):
        _ground(image, edge, top, bottom, chance, wave)
    _ground(image, 0.78, "#8fce5f", "#57a63c", chance, 4)
    return image


def _night(chance: random.Random) -> Image.Image:
    image = _vertical("#0b1033", "#2b3a78")
    draw = ImageDraw.Draw(image)
    for _ in range(chance.randint(20, 36)):
        x, y, r = chance.uniform(0, SIDE), chance.uniform(0, 0.8 * SIDE), chance.choice((0.8, 1.2, 1.8))
        draw.ellipse((x - r, y - r, x + r, y + r), fill="#fffbe0")
    x, y, r = chance.choice((0.14, 0.86)) * SIDE, 0.15 * SIDE, chance.uniform(15, 21)
    draw.ellipse((x - r, y - r, x + r, y + r), fill="#fff3b0")
    return image


def _sunset(chance: random.Random) -> Image.Image:
    image = _vertical(chance.choice(("#7a3f8f", "#c2497a")), "#ffb14a")
    draw = ImageDraw.Draw(image)
    x, r = chance.uniform(0.2, 0.8) * SIDE, chance.uniform(24, 34)
    draw.ellipse((x - r, 0.7 * SIDE - r, x + r, 0.7 * SIDE + r), fill="#ffe07a")
    _ground(image, 0.76, "#5b3550", "#3a2138", chance, 5)
    return image


def _beach(chance: random.Random) -> Image.Image:
    image = _vertical("#6fc1f5", "#dff3fd")
    _clouds(image, chance, 0.3)
    _ground(image, 0.5, "#2f9fd8", "#55bfe6", chance, 0)
    _ground(image, 0.68, "#f6dfa4", "#e8c77d", chance, 6)
    return image


def _sea(chance: random.Random) -> Image.Image:
    image = _vertical("#7cc6f6", "#e4f5fd")
    _clouds(image, chance, 0.35)
    _ground(image, 0.6, "#3d9fe0", "#1765ab", chance, 4)
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y = chance.uniform(0, SIDE - 24), chance.uniform(0.66, 0.97) * SIDE
        draw.arc((x, y, x + 22, y + 8), 200, 340, fill="#bfe4f8", width=2)
    return image


def _snow(chance: random.Random) -> Image.Image:
    image = _vertical("#9fb9d8", "#dfe9f3")
    _ground(image, 0.64, "#ffffff", "#e3edf7", chance, 7)
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        x, y, r = chance.uniform(0, SIDE), chance.uniform(0, SIDE), chance.choice((1.5, 2.2, 3.0))
        draw.ellipse((x - r, y - r, x + r, y + r), fill="#ffffff")
    return image


def _desert(chance: random.Random) -> Image.Image:
    image = _vertical("#8fcdf2", "#fbe9c7")
    draw = ImageDraw.Draw(image)
    x, r = chance.choice((0.15, 0.85)) * SIDE, chance.uniform(15, 22)
    draw.ellipse((x - r, 40 - r, x + r, 40 + r), fill="#ffd54f")
    _ground(image, 0.58, "#e9b96a", "#dba551", chance, 14)
    _ground(image, 0.74, "#f0c67c", "#d9a04c", chance, 8)
    return image


def _room(chance: random.Random) -> Image.Image:
    wall = chance.choice(("#f4e3cf", "#dfe9d8", "#d9e4ef", "#f3dfe3"))
    image = Image.new("RGB", (SIDE, SIDE), wall)
    draw = ImageDraw.Draw(image)
    edge = round(0.72 * SIDE)
    draw.rectangle((0, edge, SIDE, SIDE), fill="#b98555")
    draw.rectangle((0, edge - 6, SIDE, edge), fill="#fbf7f0")
    for x in range(-40, SIDE + 60, 44):
        draw.line((x, SIDE, SIDE // 2 + (x - SIDE // 2) * 0.62, edge), fill="#a2703f", width=2)
    left = chance.choice((16, 176))
    draw.rectangle((left, 24, left + 64, 92), fill="#ffffff")
    for dx, dy in ((4, 4), (34, 4), (4, 36), (34, 36)):
        draw.rectangle((left + dx, 24 + dy, left + dx + 26, 24 + dy + 28), fill="#9fd4f5")
    return image


def _space(chance: random.Random) -> Image.Image:
    image = _vertical("#05060f", "#1a1440")
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, r = chance.uniform(0, SIDE), chance.uniform(0, SIDE), chance.choice((0.7, 0.9, 1.4))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=chance.choice(("#ffffff", "#cfe0ff", "#ffe9c9")))
    return image


def _underwater(chance: random.Random) -> Image.Image:
    image = _vertical("#4fc3e8", "#0b4f8a")
    draw = ImageDraw.Draw(image)
    for _ in range(16):
        x, y, r = chance.uniform(0, SIDE), chance.uniform(0, SIDE), chance.uniform(2, 6)
        draw.ellipse((x - r, y - r, x + r, y + r), outline="#c9f0fb", width=2)
    _ground(image, 0.88, "#d9c48c", "#b99f62", chance, 5)
    return image


def _words(*pairs: tuple[str, str]) -> tuple[Words, ...]:
    return tuple(Words(en, zh) for en, zh in pairs)


SCENES = {
    "sky": Scenery(
        _sky,
        1.0,
        _words(
            ("in the sky", "在天空中"),
            ("with a blue sky behind", "背景是蓝天"),
            ("blue sky background", "蓝天背景"),
        ),
        ("blue", "cyan"),
    ),
    "meadow": Scenery(
        _meadow,
        0.62,
        _words(
            ("on the grass", "在草地上"),
            ("in a meadow", "在草原上"),
            ("on green grass under a blue sky", "在蓝天下的绿草地上"),
        ),
        ("green",),
    ),
    "hills": Scenery(
        _hills,
        0.78,
        _words(("in front of green hills", "在绿色的山丘前"), ("with hills behind", "背景是山丘")),
        ("green",),
    ),
    "night": Scenery(
        _night,
        1.0,
        _words(
            ("at night", "在夜里"),
            ("under the night sky", "在夜空下"),
            ("under the moon and stars", "在月亮和星星下"),
        ),
        ("black", "blue"),
    ),
    "sunset": Scenery(
        _sunset, 0.76, _words(("at sunset", "在夕阳下"), ("in the sunset", "在日落时")), ("orange",)
    ),
    "beach": Scenery(
        _beach,
        0.68,
        _words(("on the beach", "在沙滩上"), ("on a sandy beach by the sea", "在海边的沙滩上")),
        ("yellow",),
    ),
    "sea": Scenery(_sea, 0.6, _words(("on the sea", "在海上"), ("on the water", "在水面上")), ("blue",)),
    "snow": Scenery(
        _snow, 0.64, _words(("in the snow", "在雪地里"), ("on a snowy day", "在下雪天")), ("white",)
    ),
    "desert": Scenery(
        _desert,
        0.74,
        _words(("in the desert", "在沙漠里"), ("on desert sand", "在沙漠的沙地上")),
        ("orange", "yellow"),
    ),
    "room": Scenery(
        _room,
        0.72,
        _words(("in a room", "在房间里"), ("on a wooden floor in a room", "在房间的木地板上")),
        ("brown",),
    ),
    "space": Scenery(
        _space, 1.0, _words(("in space", "在太空中"), ("among the stars", "在群星之间")), ("black",)
    ),
    "underwater": Scenery(
        _underwater, 1.0, _words(("under water", "在水下"), ("under the sea", "在海底")), ("blue", "cyan")
    ),
}
