"""Write the prompts that ``cogview eval scenes`` and ``cogview eval things`` ask a model for.

    python prompts.py --packages packages --work corpus    after corpus.py plan

Scenes: GenEval's six tasks in both languages, each prompt with what a picture of it must show, from
combinations that no training picture has (``sources/withheld.py``, ``sources/splits.py``). Things: the bare
names of all everyday things. The files lie in the package (``src/cogview/evaluation/prompts``); they change
only with the list of things. ``--pictures`` also draws every scene, for the ceiling of the reader.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backgrounds import Background
from scenes_source import load_cast
from sources.drawing import Words
from sources.scene_layout import single
from sources.scene_words import Said, groups_of, wording
from sources.scenes import FEET, FLOATING, LANDSCAPES, ROWS, Composer, Draft, Placed, Scene, SceneThing
from sources.splits import withheld_colour
from sources.withheld import count_withheld, pair_withheld, place_withheld, relation_withheld
from things import Thing, load_things, one

EACH = 360  # prompts a task
ROUNDS = 10  # in which combinations may come again
MOST_TRIED = 1_000_000
NAMES = 5  # wordings of a thing's name, at most
RELATIONS = {"left": 25, "right": 25, "above": 20, "below": 15, "on": 15}
FOLDER = Path(__file__).parents[2] / "src" / "cogview" / "evaluation" / "prompts"
NO_OBJECTS = frozenset(("symbol", "face", "body"))  # groups that scenes are not asked of
UNPAINTED = frozenset(("person", "sky"))  # groups of which no colour is asked
Cast = tuple[tuple[SceneThing, str | None], ...]


class Asker:
    """Scenes of withheld combinations, the same for the same things."""

    def __init__(self, things: Sequence[SceneThing]) -> None:
        self.things = [_by_one_name(thing) for thing in things if thing.group not in NO_OBJECTS]
        self.composer = Composer(self.things)
        self.chance = random.Random("scene-prompts")
        self.makers: dict[str, Callable[[], Iterator[Draft]]] = {
            "one": self._one,
            "two": self._two,
            "count": self._count,
            "colour": self._colour,
            "position": self._position,
            "colours": self._colours,
        }

    def scenes(self, each: int = EACH) -> Iterator[tuple[Scene, Words]]:
        """``each`` scenes and prompts of every task; combinations that are few come again in other words."""
        number = 0
        for maker in self.makers.values():
            asked: set[Words] = set()
            for draft in maker():
                scene = Scene(number, split="test_comp", **vars(draft))
                words = self._words(scene)
                if words not in asked:
                    asked.add(words)
                    number += 1
                    yield scene, words
                if len(asked) == each:
                    break

    def _words(self, scene: Scene) -> Words:
        """A prompt that says all that was asked and no background but a landscape."""
        groups = groups_of(scene, self.composer.by_key, own=False)
        relation, place = scene.relation, scene.background.kind in LANDSCAPES
        if relation in ("right", "below"):
            groups, relation = groups[::-1], {"right": "left", "below": "above"}[relation]
        return wording(self.chance, scene, Said(tuple(groups), relation, None, place))

    def _rounds(self, found: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """All combinations in any order, several times."""
        every = list(found)
        for _ in range(ROUNDS):
            yield from self.chance.sample(every, len(every))

    def _pairs(self, things: Sequence[SceneThing]) -> Iterator[tuple[SceneThing, SceneThing]]:
        """Withheld pairs of the things, without end where there are any."""
        for _ in range(MOST_TRIED):
            first, second = self.chance.sample(things, 2)
            if pair_withheld(first.key, second.key):
                yield first, second

    def _painted(self) -> list[SceneThing]:
        return [thing for thing in self.composer.painted if thing.group not in UNPAINTED]

    def _one(self) -> Iterator[Draft]:
        pairs = (
            (thing, place)
            for thing in self.things
            for place in LANDSCAPES
            if place_withheld(thing.key, place) and self.composer.fits(place, ((thing, None),))
        )
        for thing, place in self._rounds(pairs):
            left, top, right, bottom = single(self.chance, thing.outline, 120, 170, (0, 0))
            if place not in FLOATING:
                top, bottom = FEET[0] + 20 - (bottom - top), FEET[0] + 20
            placed = Placed(thing.key, (left, top, right, bottom))
            yield Draft("one", Background(place, "", self.chance.randrange(1 << 16)), (placed,))

    def _two(self) -> Iterator[Draft]:
        for first, second in self._pairs(self.things):
            yield from self._drawn("two", ((first, None), (second, None)), ((2,), (1, 1)))

    def _count(self) -> Iterator[Draft]:
        counts = (
            (thing, count)
            for thing in self.composer.counted
            for count in (2, 3, 4)
            if count_withheld(thing.key, count)
        )
        for thing, count in self._rounds(counts):
            yield from self._drawn("count", ((thing, None),) * count, ROWS[count], alike=True)

    def _colour(self) -> Iterator[Draft]:
        painted = (
            (thing, colour)
            for thing in self._painted()
            for colour in thing.paints
            if withheld_colour(thing.key, colour)
        )
        for thing, colour in self._rounds(painted):
            yield from self._drawn("colour", ((thing, colour),), ((1,),))

    def _colours(self) -> Iterator[Draft]:
        for first, second in self._pairs(self._painted()):
            colours = [(a, b) for a in first.paints for b in second.paints if a != b]
            if colours:
                a, b = self.chance.choice(colours)
                yield from self._drawn("colours", ((first, a), (second, b)), ((2,), (1, 1)))

    def _position(self) -> Iterator[Draft]:
        for _ in range(MOST_TRIED):
            relation = self.chance.choices(list(RELATIONS), list(RELATIONS.values()))[0]
            second = self.chance.choice(self.composer.supports if relation == "on" else self.things)
            first = self.chance.choice(self.things)
            if first != second and relation_withheld(relation, first.key, second.key):
                draft = self.composer.position(self.chance, relation, ((first, None), (second, None)))
                if draft:
                    yield replace(draft, background=Background())

    def _drawn(
        self, task: str, cast: Cast, forms: Sequence[tuple[int, ...]], alike: bool = False
    ) -> Iterator[Draft]:
        """The draft, if the things go into rows of one of the forms; before white, unless one is white."""
        draft = self.composer.in_rows(self.chance, task, cast, forms, alike)
        if draft:
            white = any(colour == "white" for _, colour in cast)
            behind = Background("plain", "blue") if white else Background()
            yield replace(draft, background=behind)


def _by_one_name(thing: SceneThing) -> SceneThing:
    """The thing by its usual name alone: what is asked is the scene, not the vocabulary."""
    counted = [noun for noun in thing.en if noun.plural]
    en = tuple(dict.fromkeys([thing.en[0], *counted[:1]]))
    return replace(thing, en=en, zh=thing.zh[:1])


def scene_row(scene: Scene, words: Words) -> dict[str, Any]:
    """A line of ``scenes.jsonl``: a ``cogview.evaluation.metrics.scene_rules.ScenePrompt``."""
    kinds = dict.fromkeys((one.thing, one.colour) for one in scene.placed)
    asked = []
    for thing, colour in kinds:
        count = sum((one.thing, one.colour) == (thing, colour) for one in scene.placed)
        asked.append({"thing": thing} | ({"count": count} if count > 1 else {}))
        asked[-1] |= {"colour": colour} if colour else {}
    row = {"id": f"{scene.task}-{scene.number:04}", "task": scene.task, "en": words.en, "zh": words.zh}
    row |= {"asked": asked} | ({"relation": scene.relation} if scene.relation else {})
    return row | ({"place": scene.background.kind} if scene.background.kind in LANDSCAPES else {})


def thing_row(thing: Thing) -> dict[str, Any]:
    """A line of ``things.jsonl``: a thing and what people type for it, the usual names first."""
    en = [form for name in thing.en for form in (name, one(thing, name))]
    en += [f"a picture of {en[1]}", f"draw {en[1]}", f"{en[0]} drawing"]
    zh = [form for name in thing.zh for form in (name, one(thing, name))]
    zh += [f"{zh[0]}的图片", f"画{zh[1]}", f"一张{zh[0]}的图"]
    return {"thing": thing.key} | {
        language: list(dict.fromkeys(forms))[:NAMES] for language, forms in (("en", en), ("zh", zh))
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    print(f"{path.name}: {len(rows)} lines, {len(text.encode()) / 1e3:.0f} KB")


def main() -> None:
    """Write both files, and the pictures where they are asked for."""
    parser = argparse.ArgumentParser(description="Write the prompts of the evaluation.")
    parser.add_argument("--packages", type=Path, default=Path("packages"))
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where measurements are kept")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=Path, help="a folder for a PNG of every scene")
    options = parser.parse_args()
    things, house = load_cast(options.packages, options.work)
    found = list(Asker(things).scenes())
    rows = [scene_row(scene, words) for scene, words in found]
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "scenes.jsonl", rows)
    write(options.out / "things.jsonl", [thing_row(thing) for thing in load_things().values()])
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for (scene, _), row in zip(found, rows, strict=True):
            house.draw(scene).save(options.pictures / f"{row['id']}.png")


if __name__ == "__main__":
    main()
