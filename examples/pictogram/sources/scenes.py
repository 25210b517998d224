"""Scenes: one to four everyday things of the house style, composed from their drawings, each from its number.

The six tasks are GenEval's (``cogview.evaluation.metrics.scene_rules``): one thing in a place or of a
size, two things, a count, a colour, a position, a colour for each of two; a few show three or four
different things. What a picture shows decides its split: with a withheld combination (``withheld.py``) it
is ``test_comp``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from backgrounds import PLAIN, Background
from backgrounds import SCENES as LANDSCAPE

from cogview.evaluation.metrics.scene_rules import directions
from sources.drawing import fraction
from sources.scene_layout import (
    SIDE,
    Box,
    Outline,
    aligned,
    aligned_pair,
    apart,
    diagonal,
    overlapping,
    rows,
    single,
    stacked,
)
from sources.splits import withheld_colour
from sources.withheld import count_withheld, pair_withheld, place_withheld, relation_withheld

COUNT = 80_000
TEST, VAL = 0.05, 0.01  # shares of the scenes that are drawn for the splits test_comp and val
TASKS = {"one": 14, "two": 18, "count": 20, "colour": 12, "position": 22, "colours": 10, "more": 4}
RELATIONS = {"left": 30, "right": 20, "above": 17, "below": 10, "on": 13, "behind": 10}
BACKGROUNDS = {"white": 56, "plain": 14, "gradient": 8, "landscape": 22}
LANDSCAPES = tuple(LANDSCAPE)
FLOATING = frozenset(kind for kind in LANDSCAPES if LANDSCAPE[kind].ground == 1)  # no ground to stand on
SHOWN: Mapping[str, frozenset[str]] = {  # things that landscapes show already: none is put before those
    "cloud": frozenset(("sky", "meadow", "hills", "beach", "sea")),
    "moon": frozenset(("night",)),
    "star": frozenset(("night", "space")),
    "sun": frozenset(("sunset", "desert")),
    "window": frozenset(("room",)),
    "sea": frozenset(("sea", "beach", "underwater")),
    "mountain": frozenset(("hills",)),
    "snowflake": frozenset(("snow",)),
    "bubbles": frozenset(("underwater",)),
}
FEET = (210, 246)  # where things stand on a ground, pixels from above
SIZES = {"small": (80, 104), "medium": (128, 176), "large": (214, 244)}
SHADES = 3  # of backgrounds on the grid
ROWS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,),),
    2: ((2,), (1, 1)),
    3: ((3,), (1, 2), (2, 1), (1, 1, 1)),
    4: ((2, 2), (2, 2), (1, 3), (3, 1)),
}


@dataclass(frozen=True)
class Noun:
    """An English name: ``article`` is "a", "the" or "" (bread, scissors), ``plural`` is None for the last.

    ``unit`` stands before it where it is counted: "pair" of jeans.
    """

    name: str
    plural: str | None
    article: str = "a"
    unit: str = ""


@dataclass(frozen=True)
class SceneThing:
    """What a scene needs of a thing: how it is called and counted, its outline, the colours it can have.

    ``en`` are its names, the usual one first, and ``zh`` those with their measure words ("" for none);
    ``own``: the colour most of its drawing has, ``natural``: one that people would call it by; ``support``:
    others can stand on it; ``group``: what kind of thing it is (``animal``, ``symbol``, …).
    """

    key: str
    en: tuple[Noun, ...]
    zh: tuple[tuple[str, str], ...]
    outline: Outline
    own: str
    natural: str | None = None
    colours: tuple[str, ...] = ()
    mirror: bool = True
    support: bool = False
    group: str = ""

    @property
    def counted(self) -> bool:
        """Whether two or more can be shown under a number."""
        return any(noun.plural for noun in self.en) and any(measure for _, measure in self.zh)

    @property
    def paints(self) -> tuple[str, ...]:
        """The colours it may be painted in, withheld ones too: all but its own."""
        return tuple(colour for colour in self.colours if colour != self.own)


@dataclass(frozen=True)
class Placed:
    """One thing in a scene; ``colour`` is None where it is drawn in its own."""

    thing: str
    box: Box
    colour: str | None = None
    mirror: bool = False


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``relation`` is the first thing's to the second, ``size`` and ``place`` of one.

    ``placed`` is in the order in which captions may name them; where things overlap, :attr:`painted` gives
    the order in which they are drawn.
    """

    number: int
    task: str
    split: str
    background: Background
    placed: tuple[Placed, ...]
    relation: str | None = None
    size: str | None = None
    place: tuple[int, int] | None = None

    @property
    def painted(self) -> tuple[Placed, ...]:
        """From back to front."""
        return self.placed[::-1] if self.relation == "on" else self.placed

    def spec(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Draft:
    """A scene before its split is known."""

    task: str
    background: Background
    placed: tuple[Placed, ...]
    relation: str | None = None
    size: str | None = None
    place: tuple[int, int] | None = None


def shown_relations(scene: Scene | Draft) -> Iterator[tuple[str, Placed, Placed]]:
    """Every relation between two different things that the picture shows, said or not."""
    if scene.relation in ("on", "behind"):
        yield scene.relation, scene.placed[0], scene.placed[1]
        return
    for first, second in combinations(scene.placed, 2):
        if first.thing != second.thing:
            for relation in sorted(directions(first.box, second.box)):
                yield relation, first, second


def withheld(scene: Scene | Draft) -> list[str]:
    """The withheld combinations that the picture shows, whatever its captions say; empty for training."""
    names = [one.thing for one in scene.placed]
    kinds = sorted(set(names))
    place = scene.background.kind
    painted = {(one.thing, one.colour) for one in scene.placed if one.colour}
    found = [f"{name} {colour}" for name, colour in sorted(painted) if withheld_colour(name, colour)]
    found += [f"{name} x{names.count(name)}" for name in kinds if count_withheld(name, names.count(name))]
    found += [f"{a} + {b}" for a, b in combinations(kinds, 2) if pair_withheld(a, b)]
    found += [
        f"{first.thing} {relation} {second.thing}"
        for relation, first, second in shown_relations(scene)
        if relation_withheld(relation, first.thing, second.thing)
    ]
    if place in LANDSCAPES:
        found += [f"{name} in {place}" for name in kinds if place_withheld(name, place)]
    return found


@dataclass
class Composer:
    """Makes the scenes of a list of things; the same number and things give the same scene.

    aligned: things are of few sizes and on the grid of the image tokenizer's codes, backgrounds of few
    shades, as a transformer learns them; else both vary freely, as judges see them.
    """

    things: Sequence[SceneThing]
    aligned: bool = False
    by_key: dict[str, SceneThing] = field(init=False)

    def __post_init__(self) -> None:
        self.by_key = {thing.key: thing for thing in self.things}
        self.counted = [thing for thing in self.things if thing.counted]
        self.painted = [thing for thing in self.things if thing.paints]
        self.supports = [thing for thing in self.things if thing.support]
        self.makers: dict[str, Callable[[random.Random], Draft | None]] = {
            "one": self._one,
            "two": self._two,
            "count": self._count,
            "colour": self._colour,
            "position": self._position,
            "colours": self._colours,
            "more": self._more,
        }

    def scene(self, number: int) -> Scene:
        """The scene of a number, of the split that its hash chooses."""
        chance = random.Random(f"scene:{number}")
        wanted = fraction("scene-split", number)
        split = "test_comp" if wanted < TEST else "val" if wanted < TEST + VAL else "train"
        task = _choose(chance, TASKS)
        for _ in range(2000):
            draft = self.makers[task](chance)
            if draft and self.aligned:
                draft = self._on_grid(draft)
            if draft and bool(withheld(draft)) == (split == "test_comp"):
                return Scene(number=number, split=split, **{name: getattr(draft, name) for name in DRAFT})
        raise ValueError(f"scene {number}: no {task} scene for {split} among these {len(self.things)} things")

    def scenes(self, count: int = COUNT) -> Iterator[Scene]:
        """The first scenes."""
        return map(self.scene, range(count))

    # ------------------------------------------------------------------------------------------ tasks

    def _one(self, chance: random.Random) -> Draft | None:
        thing = chance.choice(self.things)
        background = self._background(chance, [(thing, None)], white=30)
        size = chance.choice((*SIZES, None))
        place = (0, 0)
        if background.kind not in LANDSCAPES or background.kind in FLOATING:
            while place == (0, 0) and size in ("small", "medium") and chance.random() < 0.6:
                place = (chance.choice((-1, 0, 1)), chance.choice((-1, 0, 1)))
        low, high = (100, 140) if place != (0, 0) and size == "medium" else SIZES[size or "medium"]
        if background.kind in LANDSCAPES and background.kind not in FLOATING:
            high = min(high, 200)
            box = single(chance, thing.outline, min(low, high), high, (0, 0))
            box = _grounded(chance, box)
        else:
            box = single(chance, thing.outline, low, high, place)
        placed = Placed(thing.key, box, mirror=self._mirror(chance, thing))
        said = size if size != "medium" else None
        return Draft("one", background, (placed,), size=said, place=place if place != (0, 0) else None)

    def _two(self, chance: random.Random) -> Draft | None:
        cast = [(thing, self._some_paint(chance, thing, 0.1)) for thing in chance.sample(self.things, 2)]
        return self.in_rows(chance, "two", cast, ((2,), (2,), (2,), (1, 1)), slant=0.15)

    def _count(self, chance: random.Random) -> Draft | None:
        thing, count = chance.choice(self.counted), chance.choice((2, 2, 3, 3, 4))
        cast = [(thing, self._some_paint(chance, thing, 0.25))] * count
        return self.in_rows(chance, "count", cast, ROWS[count], alike=True, slant=0.1 if count < 4 else 0)

    def _colour(self, chance: random.Random) -> Draft | None:
        thing = chance.choice(self.painted)
        colour = chance.choice(thing.paints)
        background = self._background(chance, [(thing, colour)])
        box = single(chance, thing.outline, 120, 216, (0, 0))
        if background.kind in LANDSCAPES and background.kind not in FLOATING:
            box = _grounded(chance, single(chance, thing.outline, 110, 190, (0, 0)))
        placed = Placed(thing.key, box, colour, self._mirror(chance, thing))
        return Draft("colour", background, (placed,))

    def _colours(self, chance: random.Random) -> Draft | None:
        first, second = chance.sample(self.painted, 2)
        colour = chance.choice(first.paints)
        others = [paint for paint in second.paints if paint != colour]
        if not others:
            return None
        cast = [(first, colour), (second, chance.choice(others))]
        return self.in_rows(chance, "colours", cast, ((2,), (2,), (1, 1)))

    def _more(self, chance: random.Random) -> Draft | None:
        count = chance.choice((3, 3, 4))
        things = chance.sample(self.things, count if chance.random() < 0.6 else 2)
        several = [thing for thing in things if thing.counted]
        if len(things) < count and not several:
            return None
        while len(things) < count:  # two kinds: some more of one of them, beside it
            again = chance.choice(several)
            things.insert(things.index(again), again)
        forms = ROWS[count][:1] if count == 4 else ((3,), (3,), (1, 2), (2, 1))
        return self.in_rows(chance, "more", [(thing, None) for thing in things], forms)

    def _position(self, chance: random.Random) -> Draft | None:
        relation = _choose(chance, RELATIONS)
        if relation == "on" and self.supports:
            second = chance.choice(self.supports)
            first = chance.choice([thing for thing in self.things if thing != second])
        else:
            first, second = chance.sample(self.things, 2)
        cast = [(thing, self._some_paint(chance, thing, 0.15)) for thing in (first, second)]
        return self.position(chance, relation, cast)

    # ------------------------------------------------------------------------------------------ parts

    def position(
        self, chance: random.Random, relation: str, cast: Sequence[tuple[SceneThing, str | None]]
    ) -> Draft | None:
        """A scene whose first thing is ``relation`` to the second; None where they do not go so."""
        if relation in ("on", "behind"):
            return self._overlapping(chance, relation, cast)
        down = relation in ("above", "below")
        swapped = relation in ("right", "below")
        draft = self.in_rows(chance, "position", cast[::-1] if swapped else cast, ((1, 1) if down else (2,),))
        if draft is None:
            return None
        placed = draft.placed[::-1] if swapped else draft.placed
        found = directions(placed[0].box, placed[1].box)
        return replace(draft, placed=placed, relation=relation) if found == {relation} else None

    def _overlapping(
        self, chance: random.Random, relation: str, cast: Sequence[tuple[SceneThing, str | None]]
    ) -> Draft | None:
        outlines = [thing.outline for thing, _ in cast]
        boxes = stacked(chance, *outlines) if relation == "on" else overlapping(chance, *outlines)
        if boxes is None or _same_look(*cast):
            return None
        background = self._background(chance, cast, landscapes=LANDSCAPES)
        if background.kind in LANDSCAPES and background.kind not in FLOATING:
            boxes = _lowered(boxes, chance.randint(220, FEET[1]))
        return Draft("position", background, self._placed(chance, cast, boxes), relation)

    def in_rows(
        self,
        chance: random.Random,
        task: str,
        cast: Sequence[tuple[SceneThing, str | None]],
        forms: Sequence[tuple[int, ...]],
        alike: bool = False,
        slant: float = 0,
    ) -> Draft | None:
        """A scene of things in rows of one of the forms, some diagonally; None where they are too near."""
        outlines, lengths = [thing.outline for thing, _ in cast], chance.choice(forms)
        if chance.random() < slant:
            boxes = diagonal(chance, outlines)
            background = self._background(chance, cast, landscapes=sorted(FLOATING))
        else:
            flat = len(lengths) == 1
            background = self._background(chance, cast, landscapes=LANDSCAPES if flat else sorted(FLOATING))
            ground = background.kind in LANDSCAPES and background.kind not in FLOATING
            boxes = rows(chance, outlines, lengths, alike, chance.randint(*FEET) if ground else None)
        if not all(apart(first, second) for first, second in combinations(boxes, 2)):
            return None
        return Draft(task, background, self._placed(chance, cast, boxes))

    def _on_grid(self, draft: Draft) -> Draft | None:
        """The draft with its boxes on the codes' grid; None where they no longer stand as they should."""
        place = draft.background.kind
        stands = place in LANDSCAPES and place not in FLOATING
        outlines = [self.by_key[one.thing].outline for one in draft.placed]
        boxes = [one.box for one in draft.placed]
        if draft.relation in ("on", "behind"):
            boxes = aligned_pair(*boxes)
            if min(boxes[0][:2]) < 0 or max(boxes[0][2:]) > SIDE:
                return None
        else:
            boxes = [aligned(box, outline, stands) for box, outline in zip(boxes, outlines, strict=True)]
            if not all(apart(first, second, 1) for first, second in combinations(boxes, 2)):
                return None
            if draft.relation and directions(*boxes[:2]) != {draft.relation}:
                return None
        placed = tuple(replace(one, box=box) for one, box in zip(draft.placed, boxes, strict=True))
        background = replace(draft.background, seed=draft.background.seed % SHADES)
        return replace(draft, placed=placed, background=background)

    def _placed(
        self, chance: random.Random, cast: Sequence[tuple[SceneThing, str | None]], boxes: Sequence[Box]
    ) -> tuple[Placed, ...]:
        turned = {thing.key: self._mirror(chance, thing) for thing, _ in cast}
        return tuple(
            Placed(thing.key, box, colour, turned[thing.key])
            for (thing, colour), box in zip(cast, boxes, strict=True)
        )

    def _mirror(self, chance: random.Random, thing: SceneThing) -> bool:
        return thing.mirror and chance.random() < 0.25

    def _some_paint(self, chance: random.Random, thing: SceneThing, share: float) -> str | None:
        return chance.choice(thing.paints) if thing.paints and chance.random() < share else None

    def _background(
        self,
        chance: random.Random,
        cast: Sequence[tuple[SceneThing, str | None]],
        white: int = BACKGROUNDS["white"],
        landscapes: Sequence[str] = LANDSCAPES,
    ) -> Background:
        """A background that no thing vanishes in: never white behind what is painted white."""
        looks = {colour or thing.own for thing, colour in cast}
        weights = BACKGROUNDS | {"white": 0 if "white" in {colour for _, colour in cast} else white}
        for _ in range(50):
            kind = _choose(chance, weights)
            if kind == "landscape":
                place = chance.choice(landscapes)
                if self.fits(place, cast):
                    return Background(place, "", chance.randrange(1 << 16))
            elif kind != "white":
                colour = chance.choice(list(PLAIN))
                if not looks & ({colour} | NEAR.get(colour, frozenset())):
                    return Background(kind, colour, chance.randrange(1 << 16))
            else:
                break
        return Background()

    @staticmethod
    def fits(place: str, cast: Sequence[tuple[SceneThing, str | None]]) -> bool:
        """Whether things can be put before a landscape: it has not their colour and shows none of them."""
        looks = {colour or thing.own for thing, colour in cast}
        shown = any(place in SHOWN.get(thing.key, ()) for thing, _ in cast)
        return not shown and not looks & set(LANDSCAPE[place].colours)


DRAFT = ("task", "background", "placed", "relation", "size", "place")
NEAR: Mapping[str, frozenset[str]] = {  # plain colours that are too close to see a drawing of the other on
    "red": frozenset(("orange", "pink", "brown")),
    "orange": frozenset(("red", "brown", "yellow")),
    "yellow": frozenset(("orange",)),
    "cyan": frozenset(("blue",)),
    "blue": frozenset(("cyan", "purple")),
    "purple": frozenset(("blue", "pink")),
    "pink": frozenset(("purple", "red")),
    "brown": frozenset(("red", "orange", "black")),
    "gray": frozenset(("white",)),
    "black": frozenset(("brown",)),
}


def _choose(chance: random.Random, weights: Mapping[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _grounded(chance: random.Random, box: Box) -> Box:
    foot = chance.randint(*FEET)
    return box[0], foot - (box[3] - box[1]), box[2], foot


def _lowered(boxes: Sequence[Box], foot: int) -> list[Box]:
    """Boxes moved so that the lowest ends at ``foot``, or lower where they would reach out at the top."""
    lowest, highest = max(box[3] for box in boxes), min(box[1] for box in boxes)
    down = max(foot - lowest, 2 - highest)
    return [(left, top + down, right, bottom + down) for left, top, right, bottom in boxes]


def _same_look(first: tuple[SceneThing, str | None], second: tuple[SceneThing, str | None]) -> bool:
    """Whether two overlapping things would run into one another: both of one colour."""
    looks = [colour or thing.own for thing, colour in (first, second)]
    return looks[0] == looks[1]
