"""Pictures and labels for the judges: what they are trained on, and what their ceilings are measured on.

    python judges.py --packages packages --work corpus --out work/judges    after corpus.py plan

Three picture caches, each with ``labels.jsonl`` (``cogview.evaluation.judges.drawing_labels``):

``things``   drawings of everyday things, large, in all styles, and things cut out of scenes
``scenes``   composed scenes with the box of every thing, 256 px
``prompted`` the true picture of each prompt of ``eval scenes``, 256 px, for the ceiling

Splits are the corpus's own: ``train``, ``val``, ``test_comp`` (withheld thing x style pairs, withheld scenes)
and ``style`` (whole styles withheld).
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus import open_rows
from PIL import Image
from plan import Row
from prompts import Asker, scene_row
from rows_source import Sprites, render, uncompressed
from scenes_source import load_cast
from sources.scene_drawing import House
from sources.scenes import Composer, Placed, Scene
from sources.sprites import SIDE

from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import Record
from cogview.errors import CogViewError
from cogview.evaluation.judges.drawing_labels import Label, LabelledThing, write_labels
from cogview.evaluation.judges.scene_reader import crop_square

ROWS = {"house": 16, "thing": 4, "emoji": 4}  # of a drawing, at most; those at an edge are left out
WITHHELD = {"test_comp": 2, "style": 1, "val": 1}
CUT = (1.05, 1.35)  # the side of what is cut out of a scene, in longer sides of the thing's box
ASTRAY = 0.06  # how far its middle may be off, in the same unit


@dataclass(frozen=True)
class Picture:
    """One labelled picture, painted when it is read."""

    label: Label
    source: str
    split: str
    paint: Callable[[], Image.Image]


class Pictures:
    """Labelled pictures as a source of records."""

    def __init__(self, pictures: Sequence[Picture], name: str) -> None:
        self.pictures, self.name = pictures, name

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """Changes with any label, source or split."""
        lines = (f"{one.label.model_dump_json()} {one.source} {one.split}" for one in self.pictures)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; what cannot be drawn is a record with a problem."""
        for one in self.pictures[start:]:
            try:
                image, problem = uncompressed(one.paint()), ""
            except ValueError as error:
                image, problem = b"", str(error).splitlines()[0]
            yield Record(
                one.label.key, image, (), one.source, one.split, f"{self.name}, {one.label.key}", problem
            )

    def write(self, out: Path, size: int) -> None:
        """Render all into a picture cache and write the labels beside it."""

        def show(done: int, total: int) -> None:
            if done % 1000 == 0:
                print(f"{out.name}: {done:,} of {total:,}", flush=True)

        build_image_cache(self, out, Preprocessing(size=size, resample="box"), progress=show)
        write_labels(out, [one.label for one in self.pictures])


def thing_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows that show an everyday thing large: some of each drawing.

    A drawing counts as withheld only where no row of it is trained on.
    """
    rows = [row for row in rows if row.thing and row.source in ROWS and not row.variant.place]
    trained = {row.sprite for row in rows if row.split == "train"}
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        coloured_only = row.split in ("test_comp", "style") and (row.sprite in trained or row.variant.colour)
        most = ROWS[row.source] if row.split == "train" else WITHHELD.get(row.split, 0)
        if not coloured_only and counts[row.sprite, row.split] < most:
            counts[row.sprite, row.split] += 1
            yield row


def of_row(row: Row, sprites: Sprites) -> Picture:
    """The picture of a row."""
    label = Label(key=row.key, things=(LabelledThing(thing=row.thing, colour=row.variant.colour or None),))
    return Picture(label, row.source, row.split, lambda: render(sprites[row.sprite], row))


def _labelled(one: Placed) -> LabelledThing:
    left, top, right, bottom = (edge / SIDE for edge in one.box)
    return LabelledThing(thing=one.thing, box=(left, top, right, bottom), colour=one.colour)


def of_scene(key: str, scene: Scene, house: House) -> Picture:
    """The picture of a scene, with its boxes."""
    label = Label(key=key, things=tuple(map(_labelled, scene.placed)))
    return Picture(label, "scene", scene.split, lambda: house.draw(scene))


def of_cut(scene: Scene, house: House) -> Picture:
    """One thing of a scene, cut out as the reader of scenes does it, a little astray."""
    chance = random.Random(f"cut:{scene.number}")
    one = chance.choice(scene.placed)
    side = chance.uniform(*CUT)
    shift = chance.uniform(-ASTRAY, ASTRAY), chance.uniform(-ASTRAY, ASTRAY)

    def paint() -> Image.Image:
        return crop_square(house.draw(scene), one.box, side, shift)

    label = Label(key=f"cut/{scene.number}", things=(LabelledThing(thing=one.thing, colour=one.colour),))
    return Picture(label, "cut", scene.split, paint)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render the pictures that the judges are trained on.")
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="where packages are unpacked")
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where the tables of rows lie")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["things", "scenes", "prompted"], nargs="*", help="default: all")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of things; scenes have 256")
    parser.add_argument("--scenes", type=int, default=12_000, help="composed scenes")
    parser.add_argument("--cuts", type=int, default=8_000, help="things cut out of further scenes")
    parser.add_argument("--limit", type=int, help="about so many rows, for a trial")
    return parser.parse_args()


def main() -> None:
    """Render what is asked for."""
    options = arguments()
    wanted = options.only or ["things", "scenes", "prompted"]
    cast, house = load_cast(options.packages, options.work)
    composer, scenes, cuts = Composer(cast), options.scenes, options.cuts
    if "things" in wanted:
        source = open_rows(options.packages, options.work, "rows", options.limit, SIDE)
        rows = sorted(thing_rows(source.rows), key=lambda row: row.sprite)
        found = [of_row(row, source.sprites) for row in rows]
        found += [of_cut(composer.scene(number), house) for number in range(scenes, scenes + cuts)]
        Pictures(found, "things").write(options.out / "things", options.size)
    if "scenes" in wanted:
        made = (composer.scene(number) for number in range(scenes))
        Pictures([of_scene(f"scene/{scene.number}", scene, house) for scene in made], "scenes").write(
            options.out / "scenes", SIDE
        )
    if "prompted" in wanted:
        asked = ((scene_row(scene, words)["id"], scene) for scene, words in Asker(cast).scenes())
        Pictures([of_scene(key, scene, house) for key, scene in asked], "prompted").write(
            options.out / "prompted", SIDE
        )


if __name__ == "__main__":
    try:
        main()
    except (CogViewError, FileNotFoundError) as error:
        sys.exit(f"judges.py: {error}")
