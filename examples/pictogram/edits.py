"""Editing tasks with known answers: held-out avatars, one attribute masked, a caption that changes it.

    python edits.py --out edits --count 200
    cogview eval editing edits --model pictogram-2 --classifier classifier

Every avatar is drawn from its options, so it can be drawn again with one of them changed: what differs is the
attribute's region, and the second drawing is a true answer. A shape (eyes, mouth, hat, …) is masked by the
rectangle around all that differs, a colour by what differs itself, both widened by a few pixels.
``edits.jsonl`` has a row a task: captions in both languages of the changed avatar, the attribute, its old and
new value, all other attributes; beside it are the pictures, masks and answers as PNG files.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sources.avatars import WORDS, Avatar, describe, split_of, style_folder
from sources.drawing import Words, colour_name, fraction, load_json, on_white, render_svg

SIDE = 144  # pixels that pictures are rendered at
DIFFERENT = 24  # of 255, in any channel
MARGIN = 3  # pixels of 72
LARGEST = 0.7  # of the picture
COLOURS_FROM = 150  # avatars of a style whose colours are the ones to choose from

Mask = NDArray[np.bool_]


@dataclass
class Drawn:
    """One drawing: its options and picture, what is said of it."""

    options: dict[str, Any]
    svg: str
    caption: Words
    attributes: dict[str, str]


class Style:
    """One style's drawings by number, with options laid over them."""

    def __init__(self, name: str, words: dict[str, Any]) -> None:
        import dicebear

        definition = load_json(style_folder() / f"{name}.json")
        self.name, self.words = name, words
        self.components = definition["components"]
        self.drawer, self.draw_one = dicebear.Style(definition), dicebear.Avatar
        self.colours: dict[str, set[str]] = defaultdict(set)
        for number in range(COLOURS_FROM):
            for option, value in self.drawn(number).options.items():
                if option.endswith("Color") and value:
                    self.colours[option].add(value[0])

    def drawn(self, number: int, **options: Any) -> Drawn:
        """The avatar of a number, some of its options replaced."""
        made = self.draw_one(self.drawer, {"seed": f"{self.name}-{number}", **options})
        avatar = Avatar(self.words, made.to_json()["options"])
        caption = describe(self.name, avatar).caption
        return Drawn(avatar.options, str(made), caption, avatar.attributes)

    def others(self, attribute: str, before: Drawn) -> list[tuple[str, Any]]:
        """Option and value for every way to change an attribute."""
        part = attribute.removesuffix("_color")
        if part != attribute:
            option = f"{part}Color"
            codes = sorted(self.colours[option])
            return [(option, [c]) for c in codes if colour_name(c).en != before.attributes[attribute]]
        known = self.words["parts"].get(part, {})
        there = self.components.get(part, {}).get("variants", {})
        return [(f"{part}Variant", v) for v in known if v in there and v != before.attributes[attribute]]


def changed(style: Style, number: int) -> tuple[str, Drawn, Drawn] | None:
    """A held-out avatar, and the same with one attribute changed, by hashes; None where there is none."""
    before = style.drawn(number)
    if split_of(style.name, number, before.attributes) == "train":
        return None
    chance = fraction("edit", style.name, number)
    names = sorted(before.attributes)
    first = int(chance * len(names))
    for attribute in names[first:] + names[:first]:
        ways = style.others(attribute, before)
        if not ways:
            continue
        option, value = ways[int(fraction("value", style.name, number) * len(ways))]
        after = style.drawn(number, **{option: value})
        differ = {k for k in before.attributes | after.attributes
                  if before.attributes.get(k) != after.attributes.get(k)}  # fmt: skip
        if differ == {attribute}:
            return attribute, before, after
    return None


def region(before: Image.Image, after: Image.Image, box: bool) -> Mask:
    """Where two pictures differ, widened; as a rectangle if asked."""
    both = np.asarray(before).astype(int), np.asarray(after).astype(int)
    differ = (np.abs(both[0] - both[1]) > DIFFERENT).any(-1)
    if box and differ.any():
        rows, columns = np.flatnonzero(differ.any(1)), np.flatnonzero(differ.any(0))
        differ[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    wide = Image.fromarray(differ.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * MARGIN + 1))
    return np.asarray(wide) > 0


def tasks(words: dict[str, Any], count: int, size: int) -> Iterator[tuple[dict[str, Any], list[Image.Image]]]:
    """Rows and their pictures (picture, mask, answer), as many of each style as of any other."""
    styles = [_style_tasks(Style(name, words[name]), size) for name in words]
    turns = (task for turn in itertools.zip_longest(*styles) for task in turn if task is not None)
    yield from itertools.islice(turns, count)


def _style_tasks(style: Style, size: int) -> Iterator[tuple[dict[str, Any], list[Image.Image]]]:
    for number in range(3000):
        found = changed(style, number)
        if found is None:
            continue
        attribute, before, after = found
        box = Image.Resampling.BOX
        pictures = [
            on_white(render_svg(drawn.svg, SIDE)).resize((size, size), box) for drawn in (before, after)
        ]
        mask = region(*pictures, box=not attribute.endswith("_color"))
        if not 0 < mask.mean() < LARGEST:
            continue
        row = {
            "key": f"dice/{style.name}/{number}",
            "style": style.name,
            "attribute": attribute,
            "before": before.attributes,
            "after": after.attributes,
            "captions": {"en": after.caption.en, "zh": after.caption.zh},
        }
        yield row, [pictures[0], Image.fromarray(mask.astype(np.uint8) * 255), pictures[1]]


def main() -> None:
    """Write the tasks."""
    parser = argparse.ArgumentParser(description="Make editing tasks with known answers.")
    parser.add_argument("--out", type=Path, default=Path("edits"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=72, help="pixels a side")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    words, rows = yaml.safe_load(WORDS.read_text("utf-8")), []
    for number, (row, pictures) in enumerate(tasks(words, options.count, options.size)):
        for name, picture in zip(("picture", "mask", "answer"), pictures, strict=True):
            row[name] = f"{number:04d}-{name}.png"
            picture.save(options.out / row[name])
        rows.append(json.dumps(row, ensure_ascii=False))
    (options.out / "edits.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    print(f"{len(rows)} tasks in {options.out}")


if __name__ == "__main__":
    main()
