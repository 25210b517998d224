"""Folders of captioned images to try the cookbook's trainings with: drawn here, so free of anybody's rights.

    python examples/cookbook/pictures.py cat cat/
    python examples/cookbook/pictures.py icons brand/
    python examples/cookbook/pictures.py products products/
    python examples/cookbook/pictures.py patterns patterns/

Put your own images in their place: each with a text file of the same name beside it, or a table.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 144
BRAND = "#0f766e"
COLOURS = {"red": "#d62828", "blue": "#1d4ed8", "green": "#2f9e44", "yellow": "#f2b705"}
CHINESE = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色"}
Sample = tuple[str, Image.Image, list[str]]  # name, image, captions


def canvas(ground: str = "white") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), ground)
    return image, ImageDraw.Draw(image)


def cats() -> Iterator[Sample]:
    """One grey cat in six poses, each a little different."""
    poses = {
        "sitting": 0,
        "looking left": -12,
        "looking right": 12,
        "sleeping": 0,
        "with a red hat": 0,
        "happy": 0,
    }
    for pose, turn in poses.items():
        for number in range(4):
            image, pen = canvas()
            low = 96 if pose == "sleeping" else 84
            pen.ellipse((34, low - 8, 110, 138), fill="#7d8597")  # body
            x, y = 72 + turn + number, low - 20 + number
            pen.ellipse((x - 30, y - 26, x + 30, y + 26), fill="#979dac")
            for ear in (-1, 1):
                points = [(x + ear * 28, y - 14), (x + ear * 24, y - 42), (x + ear * 8, y - 24)]
                pen.polygon(points, fill="#7d8597")
                box = (x + ear * 12 - 5, y - 8, x + ear * 12 + 5, y + 2)
                if pose == "sleeping":
                    pen.arc(box, 0, 180, fill="#212529", width=2)
                else:
                    pen.ellipse(box, fill="#212529")
            if pose == "happy":
                pen.arc((x - 10, y, x + 10, y + 16), 0, 180, fill="#212529", width=2)
            if pose == "with a red hat":
                pen.polygon([(x - 20, y - 22), (x + 20, y - 22), (x, y - 58)], fill=COLOURS["red"])
            yield f"cat-{pose.replace(' ', '-')}-{number}", image, [f"my cat, {pose}"]


def bars(pen: ImageDraw.ImageDraw, d: int) -> None:
    for i in range(3):
        pen.rectangle((36 + 28 * i, 100 - 22 * i - d, 54 + 28 * i, 114), fill=BRAND)


def cross(pen: ImageDraw.ImageDraw, d: int) -> None:
    for ends in ((30 + d, 72, 114 - d, 72), (72, 30 + d, 72, 114 - d)):
        pen.line(ends, BRAND, 10)


def icons() -> Iterator[Sample]:
    """Round and square marks in one brand's colour and line."""
    line = {"outline": BRAND, "width": 10}
    shapes: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
        "circle": lambda pen, d: pen.ellipse((30 + d, 30 + d, 114 - d, 114 - d), **line),
        "square": lambda pen, d: pen.rounded_rectangle((30 + d, 30 + d, 114 - d, 114 - d), 14, **line),
        "dot": lambda pen, d: pen.ellipse((48 + d, 48 + d, 96 - d, 96 - d), fill=BRAND),
        "cross": cross,
        "bars": bars,
    }
    for name, draw in shapes.items():
        for number in range(6):
            image, pen = canvas()
            draw(pen, 2 * number)
            yield f"{name}-{number}", image, [f"a {name} icon"]


def products() -> Iterator[Sample]:
    """Mugs and bags in four colours on white."""
    for colour, value in COLOURS.items():
        for number in range(3):
            image, pen = canvas()
            pen.ellipse((88, 56, 122, 100), outline=value, width=9)
            pen.rounded_rectangle((38, 44 + 2 * number, 104, 116), 12, fill=value)
            yield f"mug-{colour}-{number}", image, [f"a {colour} mug on white"]
            image, pen = canvas()
            pen.arc((48, 20 + 2 * number, 96, 80), 180, 360, fill=value, width=7)
            pen.rounded_rectangle((32, 52 + 2 * number, 112, 122), 8, fill=value)
            yield f"bag-{colour}-{number}", image, [f"a {colour} bag on white"]


def patterns() -> Iterator[Sample]:
    """Four traditional patterns: waves, squares, cracked ice, clouds; each in four colours."""
    for colour, value in COLOURS.items():
        for number in range(2):
            step = 24 + 12 * number
            image, pen = canvas("#fdf6e3")
            for y in range(0, SIDE + step, step // 2):
                for x in range(-(y // (step // 2) % 2) * step // 2, SIDE + step, step):
                    for radius in (step // 2, step // 3, step // 6):
                        pen.arc(
                            (x - radius, y - radius, x + radius, y + radius), 180, 360, fill=value, width=2
                        )
            yield f"waves-{colour}-{number}", image, [f"{CHINESE[colour]}的水波纹", f"{colour} wave pattern"]
            image, pen = canvas("#fdf6e3")
            for y in range(0, SIDE, step):
                for x in range(0, SIDE, step):
                    pen.rectangle((x + 2, y + 2, x + step - 4, y + step - 4), outline=value, width=3)
                    pen.rectangle((x + 8, y + 8, x + step - 10, y + step - 10), outline=value, width=2)
            yield (
                f"squares-{colour}-{number}",
                image,
                [f"{CHINESE[colour]}的回纹", f"{colour} square pattern"],
            )
            image, pen = canvas("#fdf6e3")
            for line in range(-6, 14):
                angle = math.radians(35 + 55 * (line % 3))
                x, y = step * line, step * (line * 5 % 7)
                ends = [
                    (x - 300 * math.cos(angle), y - 300 * math.sin(angle)),
                    (x + 300 * math.cos(angle), y + 300 * math.sin(angle)),
                ]
                pen.line(ends, value, 3)
            yield (
                f"ice-{colour}-{number}",
                image,
                [f"{CHINESE[colour]}的冰裂纹", f"{colour} cracked ice pattern"],
            )


SETS: dict[str, Callable[[], Iterator[Sample]]] = {
    "cat": cats, "icons": icons, "products": products, "patterns": patterns,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("folder", type=Path)
    args, _ = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, image, captions in SETS[args.set]():
        image.save(args.folder / f"{name}.png")
        if args.set == "products":  # a table, as shops have it
            rows.append({"file": f"{name}.png", "caption": captions[0]})
        else:
            (args.folder / f"{name}.txt").write_text("\n".join(captions) + "\n", "utf-8")
    if rows:
        with (args.folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["file", "caption"])
            table.writeheader()
            table.writerows(rows)
    print(f"{args.folder}: {len(list(args.folder.glob('*.png')))} images")


if __name__ == "__main__":
    main()
