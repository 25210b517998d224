"""Draws scenes: a backdrop, then the things' drawings over it, sharp at any size up to the drawings' own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from sources.scene_layout import SIDE
from sources.scenes import LANDSCAPES, Backdrop, Scene

FINER = 2  # backdrops are drawn this much larger, then reduced, so that their edges are smooth
PAINTS = {
    "red": "#f0605d", "orange": "#fda04a", "yellow": "#ffe06b", "green": "#8ed68a", "cyan": "#84dbe6",
    "blue": "#7db4ff", "purple": "#b094f3", "pink": "#ffbdd3", "brown": "#a87b52", "gray": "#bfc4c9",
    "black": "#222226", "white": "#ffffff",
}  # fmt: skip


class Drawings(Protocol):
    """The house-style drawings of things."""

    def drawing(self, thing: str, colour: str | None) -> Image.Image:
        """A thing's drawing, RGBA, cut to what is drawn; in its own colours or painted in one."""
        ...


def draw_scene(scene: Scene, drawings: Drawings, side: int = SIDE) -> Image.Image:
    """The picture of a scene, (side, side) RGB."""
    image = draw_backdrop(scene.backdrop, scene.number, side)
    for one in scene.painted:
        left, top, right, bottom = (round(edge * side / SIDE) for edge in one.box)
        sprite = drawings.drawing(one.thing, one.colour)
        if one.mirror:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.resize((right - left, bottom - top), Image.Resampling.LANCZOS, reducing_gap=3)
        image.paste(sprite, (left, top), sprite)
    return image


def draw_backdrop(backdrop: Backdrop, seed: int, side: int = SIDE) -> Image.Image:
    """What is behind the things, (side, side) RGB; landscapes differ by the seed."""
    if backdrop.kind == "white":
        return Image.new("RGB", (side, side), "white")
    if backdrop.kind == "plain":
        return Image.new("RGB", (side, side), PAINTS[backdrop.colours[0]])
    if backdrop.kind == "gradient":
        return _gradient(PAINTS[backdrop.colours[0]], PAINTS[backdrop.colours[1]], side)
    assert backdrop.kind in LANDSCAPES
    chance = random.Random(f"backdrop:{seed}")
    return LANDSCAPE[backdrop.kind](chance, side * FINER).reduce(FINER)


def _rgb(code: str) -> tuple[int, int, int]:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def _gradient(upper: str, lower: str, side: int) -> Image.Image:
    down = np.linspace(0, 1, side)[:, None]
    column = np.array(_rgb(upper)) * (1 - down) + np.array(_rgb(lower)) * down
    return Image.fromarray(np.repeat(column[:, None].round().astype(np.uint8), side, axis=1))


def _wave(
    chance: random.Random, side: int, height: float, swing: float, waves: float
) -> list[tuple[float, float]]:
    """A polygon: everything under a wavy line at ``height`` of the picture."""
    start, points = chance.uniform(0, 2 * np.pi), 48
    x = np.linspace(0, side, points)
    y = side * (height + swing * np.sin(start + x / side * 2 * np.pi * waves))
    return [*zip(x.tolist(), y.tolist(), strict=True), (side, side), (0, side)]


def _grass(chance: random.Random, side: int) -> Image.Image:
    image = _gradient("#bfe6fb", "#eaf7fd", side)
    draw = ImageDraw.Draw(image)
    height = chance.uniform(0.5, 0.62)
    draw.polygon(_wave(chance, side, height, 0.035, chance.uniform(0.6, 1.2)), "#9ad67b")
    draw.polygon(_wave(chance, side, height + 0.12, 0.03, chance.uniform(0.6, 1.2)), "#7cc45f")
    for _ in range(14):
        x, y = chance.uniform(0, side), chance.uniform(height + 0.2, 0.98) * side
        tall = side * 0.022
        draw.polygon([(x - tall / 2, y), (x - tall / 3, y - tall), (x, y)], "#62ab48")
        draw.polygon([(x, y), (x + tall / 3, y - tall), (x + tall / 2, y)], "#62ab48")
    return image


def _sea(chance: random.Random, side: int) -> Image.Image:
    image = _gradient("#d3eefb", "#f4fbfe", side)
    draw = ImageDraw.Draw(image)
    height = chance.uniform(0.46, 0.56)
    for step, colour in enumerate(("#6fb9ec", "#58a8e2", "#4596d6")):
        draw.polygon(_wave(chance, side, height + step * 0.15, 0.012, chance.uniform(3, 5)), colour)
    return image


def _sky(chance: random.Random, side: int) -> Image.Image:
    image = _gradient("#7cc2f5", "#d2ecfb", side)
    draw = ImageDraw.Draw(image)
    for _ in range(chance.randint(2, 4)):
        x, y = chance.uniform(0, 1) * side, chance.uniform(0.08, 0.92) * side
        radius = chance.uniform(0.035, 0.06) * side
        for across, up, share in ((-1.3, 0, 0.8), (0, 0.45, 1), (1.2, 0.1, 0.85), (2.1, -0.15, 0.6)):
            cx, cy, r = x + across * radius, y - up * radius, radius * share
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), "#eef8fe")
    return image


def _night(chance: random.Random, side: int) -> Image.Image:
    image = _gradient("#141b3d", "#34427e", side)
    draw = ImageDraw.Draw(image)
    for _ in range(34):
        x, y, r = chance.uniform(0, side), chance.uniform(0, side), chance.uniform(0.003, 0.0075) * side
        draw.ellipse((x - r, y - r, x + r, y + r), "#fdf6d0")
    return image


def _snow(chance: random.Random, side: int) -> Image.Image:
    image = _gradient("#9fc0dc", "#d3e4f1", side)
    draw = ImageDraw.Draw(image)
    height = chance.uniform(0.52, 0.62)
    draw.polygon(_wave(chance, side, height, 0.035, chance.uniform(0.6, 1.2)), "#edf4fa")
    draw.polygon(_wave(chance, side, height + 0.12, 0.025, chance.uniform(0.6, 1.2)), "#ffffff")
    for _ in range(40):
        x, y, r = (
            chance.uniform(0, side),
            chance.uniform(0, height) * side,
            chance.uniform(0.004, 0.01) * side,
        )
        draw.ellipse((x - r, y - r, x + r, y + r), "white")
    return image


def _room(chance: random.Random, side: int) -> Image.Image:
    wall, floor, board = chance.choice(
        (
            ("#f6e7cf", "#c99e6e", "#fffaf0"),
            ("#dbe9ee", "#b98d62", "#ffffff"),
            ("#e6ecd9", "#c4a27a", "#fbfdf5"),
        )
    )
    image = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(image)
    line = chance.uniform(0.64, 0.72) * side
    draw.rectangle((0, line - 0.03 * side, side, line), board)
    draw.rectangle((0, line, side, side), floor)
    for step in (0.12, 0.25):
        draw.line((0, line + step * side, side, line + step * side), _darker(floor), round(0.006 * side))
    return image


def _darker(code: str) -> tuple[int, ...]:
    return tuple(round(part * 0.9) for part in _rgb(code))


LANDSCAPE: dict[str, Callable[[random.Random, int], Image.Image]] = {
    "grass": _grass,
    "sea": _sea,
    "sky": _sky,
    "night": _night,
    "snow": _snow,
    "room": _room,
}
