"""A toy corpus: coloured shapes and striped flags whose captions state most of what is drawn.

Style ``blot``: a shape in a colour, perhaps with a dot (values "dot1" and "dot2" look alike and are both
called "a dot"), and a ``weight`` that nobody mentions. Style ``flag``: a coloured band, standing, lying or
framed. The pairs circle + red and green + lying are held out: they occur in split "test_comp" only.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "grey": "灰色"}
RGB = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 70, 230),
    "yellow": (240, 210, 40),
    "grey": (130, 130, 130),
}
SHAPES = {"circle": "圆形", "square": "方块", "cross": "十字"}
LIES = {"standing": "竖条", "lying": "横条", "framed": "框"}
SIZE = 24


def held_out(values: dict[str, str]) -> bool:
    """Whether the values have one of the two withheld pairs."""
    return (values.get("shape"), values.get("body_color")) == ("circle", "red") or (
        values.get("first_color"),
        values.get("way"),
    ) == ("green", "lying")


def captions(style: str, values: dict[str, str]) -> tuple[str, str]:
    """The English and the Chinese caption."""
    if style == "flag":
        colour, way = values["first_color"], values["way"]
        return f"flag with {colour} {way} bands, number {values['number']}", (
            f"{COLOURS[colour]}{LIES[way]}旗，第{values['number']}号"
        )
    colour, shape, number = values["body_color"], values["shape"], values["number"]
    dot = (", a dot", "，有圆点") if "mark" in values else ("", "")
    return (
        f"{colour} {shape}{dot[0]}, number {number}",
        f"{COLOURS[colour]}的{SHAPES[shape]}{dot[1]}，第{number}号",
    )


def draw(style: str, values: dict[str, str], size: int = SIZE) -> Image.Image:
    """The picture, drawn at 48 pixels and halved."""
    image = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(image)
    if style == "flag":
        boxes = {"lying": (0, 0, 47, 23), "standing": (0, 0, 23, 47), "framed": (12, 12, 36, 36)}
        pen.rectangle(boxes[values["way"]], RGB[values["first_color"]])
        return image.resize((size, size), Image.Resampling.BOX)
    colour = RGB[values["body_color"]]
    if values["shape"] == "circle":
        pen.ellipse((8, 8, 40, 40), colour)
    elif values["shape"] == "square":
        pen.rectangle((10, 10, 38, 38), colour)
    else:
        pen.rectangle((20, 6, 28, 42), colour)
        pen.rectangle((6, 20, 42, 28), colour)
    if "mark" in values:
        pen.ellipse((2, 2, 11, 11), "black")
    return image.resize((size, size), Image.Resampling.BOX)


def values_of(style: str, number: int, chance: random.Random) -> dict[str, str]:
    """Random attributes; ``number`` makes captions distinct."""
    if style == "flag":
        values = {"first_color": chance.choice(list(COLOURS)), "way": chance.choice(list(LIES))}
    else:
        values = {"body_color": chance.choice(list(COLOURS)), "shape": chance.choice(list(SHAPES))}
        values["weight"] = chance.choice(["light", "heavy"])
        if chance.random() < 0.5:
            values["mark"] = chance.choice(["dot1", "dot2"])
    return {**values, "number": str(number)}


def rows(count: int = 360, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` rows of the corpus, styles in turn."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        style = ("blot", "flag")[number % 2]
        values = values_of(style, number, chance)
        split = "test_comp" if held_out(values) else "val" if chance.random() < 0.1 else "train"
        en, zh = captions(style, values)
        image = io.BytesIO()
        draw(style, values, 48).save(image, "PNG")
        found.append(
            {
                "key": f"{style}/{number}",
                "source": "dice",
                "style": style,
                "en": en,
                "zh": zh,
                "meta": json.dumps(values),
                "split": split,
                "image": image.getvalue(),
            }
        )
    return found


def write(folder: Path, content: list[dict[str, Any]], name: str = "dice-000.parquet") -> Path:
    """The folder with the rows in it."""
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), folder / name)
    return folder


@dataclass
class CaptionDrawer:
    """Draws exactly what a caption of the toy corpus says; ``wrong_colour`` draws every colour wrongly.

    ``patience`` is how many pictures it draws before it is interrupted.
    """

    wrong_colour: bool = False
    patience: int = 1_000_000
    name: str = "caption drawer"
    precision: str = "fp32"
    drawn: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"wrong-{self.wrong_colour}"

    def generate(self, prompts: Any, seed: int, sampling: Any) -> list[Image.Image]:
        pictures = []
        for prompt in prompts:
            if len(self.drawn) >= self.patience:
                raise KeyboardInterrupt
            self.drawn.append(prompt)
            pictures.append(draw(*self.understand(prompt)))
        return pictures

    def understand(self, prompt: str) -> tuple[str, dict[str, str]]:
        def said(words: dict[str, str]) -> str:
            return next(en for en, zh in words.items() if en in prompt or zh in prompt)

        colour = said(COLOURS)
        if self.wrong_colour:
            names = list(COLOURS)
            colour = names[names.index(colour) - 1]
        if "flag" in prompt or "旗" in prompt:
            return "flag", {"first_color": colour, "way": said(LIES)}
        mark = {"mark": "dot1"} if "dot" in prompt or "圆点" in prompt else {}
        return "blot", {"body_color": colour, "shape": said(SHAPES), **mark}


class Pixels:
    """Means of the colours and of the halves; counts what it is asked."""

    name, fingerprint, size = "Pixels", "0" * 8, 16

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = pictures.astype(np.float32) / 255
        found = np.concatenate([values.mean((1, 2)), values[:, :8].mean((1, 2))], 1)
        return found, found[:, :3] / found[:, :3].sum(1, keepdims=True)


class Thumbnail:
    """The pixels of a tiny copy as features, mean colours as classes; counts what it is asked."""

    name, fingerprint, size = "Thumbnail", "0" * 8, 4

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.seen += len(pictures)
        values = pictures.reshape(len(pictures), -1).astype(np.float32) / 255
        colours = pictures.mean((1, 2)) + 1.0
        return values[:, :6], (colours / colours.sum(1, keepdims=True)).astype(np.float32)


@dataclass
class Guessing:
    """The first candidate has the wrong colour, later ones at every second prompt too but for the last."""

    honest: bool = True
    patience: int = 1_000
    name: str = "guessing"
    fingerprint: str = "0"
    precision: str = "fp32"
    drawn: list[str] = field(default_factory=list)

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Mapping[str, int | float | str]
    ) -> tuple[list[Image.Image], list[float]]:
        if len(self.drawn) == self.patience:
            raise KeyboardInterrupt
        self.drawn.append(prompt)
        wrong = [i == 0 or (seed % 2 == 1 and i < n - 1) for i in range(n)]
        pictures = [CaptionDrawer(wrong_colour=bad).generate([prompt], 0, {})[0] for bad in wrong]
        return pictures, [float(bad == self.honest) for bad in wrong]
