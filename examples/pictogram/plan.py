"""The table of rows: which variants of which drawings are tokenised, and which are withheld.

Every drawing is rendered once and measured (:class:`Facts`): its colours, and the colours that it takes. Each
group of drawings shares out its rows (``plan.yaml``); splits follow :mod:`sources.splits`. The same packages
and settings always give the same table.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml
from backgrounds import SCENES
from colours import NAMES, PAINTS, main_colour, recolour, said_colours
from PIL import Image
from pydantic import Field
from sources.avatars import avatar_sprite, avatar_styles
from sources.drawing import fraction
from sources.splits import VALIDATION, withheld_colour
from sources.sprites import Sprite
from sources.styles import HOUSE
from sources.withheld import place_withheld
from variants import Amounts, Mix, Variant, training_variants, variant

from cogview.config import Config

Group = Literal["house", "things", "emoji", "icons", "flags", "avatars"]
SETTINGS = Path(__file__).with_name("plan.yaml")
GROUPS: dict[str, Group] = {
    "emoji": "emoji", "tone": "emoji", "mono": "emoji", "icon": "icons", "icons": "icons", "game": "icons",
    "flag": "flags", "dice": "avatars",
}  # fmt: skip
LEARNT: dict[Group, Amounts] = {  # of each drawing, by a transformer
    "house": Amounts(natural=8, coloured=12, plain=4, gradient=2, landscape=4, both=2, edge=3),
    "things": Amounts(natural=2),
    "emoji": Amounts(natural=1),
    "icons": Amounts(natural=1, coloured=2),
    "flags": Amounts(natural=2),
    "avatars": Amounts(),
}
TONES = 0.4  # of the drawings with skin tones in other styles
OF_EMOJI = Amounts(natural=2, coloured=1, plain=1)  # those in the house style that are no everyday thing
VALIDATED = 256  # rows of the image tokenizer's mixture that it is not trained on
WHOLE = Variant(256, 128, 128)  # of avatars, whose background is their own


class Settings(Config):
    """Numbers of rows; see ``plan.yaml``."""

    house: int = Field(ge=0)
    house_minimum: int = Field(ge=1)
    things: int = Field(ge=0)
    emoji: int = Field(ge=0)
    house_weight: float = Field(gt=0)
    icons: int = Field(ge=0)
    flags: int = Field(ge=0)
    avatars: int = Field(ge=0)
    avatars_tokenizer: int = Field(ge=0)
    withheld: int = Field(ge=1)
    colours: int = Field(ge=0)
    mix: dict[str, float]
    icon_mix: dict[str, float]

    def scaled(self, share: float) -> Settings:
        """The numbers of rows for a share of the drawings."""
        names = ("house", "things", "emoji", "icons", "flags", "avatars", "avatars_tokenizer")
        return self.model_copy(update={name: round(share * getattr(self, name)) for name in names})


def read_settings(path: Path = SETTINGS) -> Settings:
    """The numbers of ``plan.yaml``."""
    return Settings(**yaml.safe_load(path.read_text("utf-8")))


@dataclass(frozen=True)
class Facts:
    """What was measured of a drawing: a hash of its pixels ("" where it is blank or cannot be rendered), its
    colours by area, and the other colours that it takes."""

    pixels: str
    colours: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of the table. ``colours``: to be said, measured from the drawing as it is shown."""

    key: str
    sprite: str
    source: str
    split: str
    thing: str
    style: str
    licence: str
    colours: tuple[str, ...]
    variant: Variant

    def line(self) -> str:
        """The row as one line of JSON."""
        fields = {**self.__dict__, "variant": self.variant.as_json()}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> Row:
        """The row that :meth:`line` wrote."""
        fields = json.loads(line)
        shown = Variant.from_json(fields.pop("variant"))
        return cls(**{**fields, "colours": tuple(fields["colours"])}, variant=shown)


# --------------------------------------------------------------------------------------------- measuring


def measure(sprite: Sprite, tried: Sequence[str]) -> Facts:
    """Render a drawing and measure it, also in the colours that it may be tried in."""
    try:
        image = sprite.small()
    except ValueError:  # the renderer's word for odd SVG, and ours for a blank
        return Facts("")
    own = said_colours(image)
    tiny = image.resize((64, 64), Image.Resampling.BOX)
    pixels = hashlib.sha1(tiny.tobytes()).hexdigest()
    others = (name for name in tried if name not in own)
    return Facts(pixels, own, tuple(name for name in others if _takes(sprite, image, name)))


def _takes(sprite: Sprite, image: Image.Image, colour: str) -> bool:
    if sprite.paints:
        return main_colour(sprite.small(PAINTS[colour])) == colour
    return recolour(image, colour) is not None


def tried_colours(sprite: Sprite, count: int) -> list[str]:
    """The colours that a drawing is tried in: all for house drawings, else some, chosen by hash."""
    if not sprite.recolour or not sprite.names:
        return []
    order = sorted(NAMES, key=lambda name: fraction("try", sprite.key, name))
    return order if sprite.house else order[:count]


def measured(sprites: Iterable[Sprite], path: Path, settings: Settings) -> dict[str, Facts]:
    """Facts of the drawings by key; ``path`` keeps them as they are found, so that a stop loses nothing."""
    known, facts = dict(_read_facts(path)), dict[str, Facts]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for sprite in sprites:
            tried = tried_colours(sprite, settings.colours)
            name = " ".join([sprite.key, *tried])
            if name not in known:
                known[name] = found = measure(sprite, tried)
                file.write(json.dumps([name, found.pixels, found.colours, found.takes]) + "\n")
            facts[sprite.key] = known[name]
    return facts


def _read_facts(path: Path) -> Iterator[tuple[str, Facts]]:
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        key, pixels, own, takes = json.loads(line)
        yield key, Facts(pixels, tuple(own), tuple(takes))


# ----------------------------------------------------------------------------------------------- planning


def group_of(sprite: Sprite) -> Group | None:
    """The group whose rows a drawing shares; None where it serves the image tokenizer only."""
    if sprite.source not in GROUPS or not sprite.names:
        return None
    if sprite.house:
        return "house"
    if sprite.thing and sprite.style != HOUSE:
        return "things"
    if sprite.source == "icon" and not sprite.meta["pictorial"]:
        return None
    return GROUPS[sprite.source]


def weight_of(sprite: Sprite, settings: Settings) -> float:
    """How many rows a drawing has beside others of its group."""
    if sprite.source == "tone":
        return 1.0 if sprite.style == HOUSE else 0.4
    return settings.house_weight if sprite.style == HOUSE and sprite.source == "emoji" else 1.0


def shared_out(sprites: Sequence[Sprite], rows: int, settings: Settings) -> dict[str, int]:
    """How many variants each drawing of a group has; withheld drawings have few."""
    counts = {sprite.key: settings.withheld for sprite in sprites if sprite.split != "train"}
    weights = {sprite.key: weight_of(sprite, settings) for sprite in sprites if sprite.split == "train"}
    scale = max(0, rows - sum(counts.values())) / max(1e-9, sum(weights.values()))
    for key, weight in weights.items():
        counts[key] = int(weight * scale + fraction("rows", key))
    return counts


def rows_of(sprite: Sprite, count: int, facts: Facts, settings: Settings) -> Iterator[Row]:
    """The variants of a drawing."""
    mix = Mix(**(settings.icon_mix if sprite.paints and not sprite.house else settings.mix))
    shown = (
        variant(sprite.key, number, mix, facts.takes, facts.colours, sprite.mirror) for number in range(count)
    )
    rows = [_row(sprite, number, one, facts) for number, one in enumerate(shown)]
    yield from sorted(rows, key=lambda row: row.variant.colour)  # each colour is painted once


def _row(sprite: Sprite, number: int, shown: Variant, facts: Facts) -> Row:
    return Row(
        key=f"{sprite.key}#{number}",
        sprite=sprite.key,
        source=row_source(sprite),
        split=row_split(sprite, number, shown),
        thing=sprite.thing,
        style=sprite.style,
        licence=sprite.licence,
        colours=(shown.colour,) if shown.colour else sayable_colours(sprite, facts.colours),
        variant=shown,
    )


def row_source(sprite: Sprite) -> str:
    """What a row's source is called: its group, with skin tones and silhouettes apart."""
    if sprite.house:
        return "house"
    return "thing" if sprite.thing and sprite.style != HOUSE else sprite.source


def row_split(sprite: Sprite, number: int, shown: Variant) -> str:
    """A drawing's split; of a trained one, colours and landscapes may be withheld and a few validate."""
    if sprite.split != "train":
        return sprite.split
    if shown.colour and withheld_colour(subject(sprite), shown.colour):
        return "test_comp"
    place = shown.background.kind
    if place in SCENES and place_withheld(subject(sprite), place):
        return "test_comp"
    return "val" if fraction("val", sprite.key, number) < VALIDATION else "train"


def subject(sprite: Sprite) -> str:
    """What combinations are about: the everyday thing, or else the concept."""
    return sprite.thing or sprite.concept


def sayable_colours(sprite: Sprite, colours: Sequence[str]) -> tuple[str, ...]:
    """The colours that captions may say: of other drawings than the house's, none that is withheld."""
    name = subject(sprite)
    return tuple(colour for colour in colours if sprite.house or not withheld_colour(name, colour))


def without_leaks(sprites: Sequence[Sprite], facts: Mapping[str, Facts]) -> list[Sprite]:
    """The drawings that can be rendered; withheld ones that are trained on elsewhere have split ``drop``."""
    seen = [sprite for sprite in sprites if facts[sprite.key].pixels]
    pixels = {facts[sprite.key].pixels for sprite in seen if sprite.split == "train"}
    return [
        replace(sprite, split="drop")
        if sprite.split != "train" and facts[sprite.key].pixels in pixels
        else sprite
        for sprite in seen
    ]


def plan(sprites: Sequence[Sprite], facts: Mapping[str, Facts], settings: Settings) -> Iterator[Row]:
    """All rows but scenes, group by group, the variants of a drawing together."""
    usable = without_leaks(sprites, facts)
    groups: dict[Group, list[Sprite]] = defaultdict(list)
    for sprite in usable:
        group = group_of(sprite)
        if group and sprite.split != "drop":
            groups[group].append(sprite)
    budgets: dict[Group, int] = {
        "house": settings.house,
        "things": settings.things,
        "emoji": settings.emoji,
        "icons": settings.icons,
        "flags": settings.flags,
    }
    for group, budget in budgets.items():
        counts = shared_out(groups[group], budget, settings)
        for sprite in groups[group]:
            count = counts[sprite.key]
            rows = list(rows_of(sprite, count, facts[sprite.key], settings))
            while sprite.house and (missing := settings.house_minimum - trained(rows)) > 0:
                count += missing
                rows = list(rows_of(sprite, count, facts[sprite.key], settings))
            yield from rows
    yield from avatar_rows(settings.avatars)


def training_rows(
    sprites: Sequence[Sprite], facts: Mapping[str, Facts], avatars: int, withheld: int
) -> Iterator[Row]:
    """What a transformer learns: few variants of each drawing, in the same places for all.

    A house drawing's rows have three sources, so that a recipe can weigh them: ``house`` (what a bare name
    means), ``paint`` (in another colour) and ``ground`` (before a background, or small at an edge).
    """
    for sprite in without_leaks(sprites, facts):
        group = group_of(sprite)
        if group is None or sprite.split == "drop":
            continue
        if sprite.source == "tone" and sprite.style != HOUSE and fraction("tone", sprite.key) > TONES:
            continue
        house_emoji = group == "emoji" and sprite.source == "emoji" and sprite.style == HOUSE
        amounts, own = OF_EMOJI if house_emoji else LEARNT[group], facts[sprite.key]
        shown = training_variants(sprite.key, amounts, own.takes, own.colours, sprite.mirror)
        if sprite.split != "train":
            shown = shown[:withheld]
        for number, one in enumerate(shown):
            row = _row(sprite, number, one, own)
            yield replace(row, source=_house_source(one)) if sprite.house else row
    yield from avatar_rows(avatars)


def _house_source(shown: Variant) -> str:
    if shown.natural:
        return "house"
    return "paint" if shown.background.kind == "white" and not shown.place else "ground"


def trained(rows: Iterable[Row]) -> int:
    """How many rows are trained on."""
    return sum(row.split == "train" for row in rows)


def avatar_rows(count: int) -> Iterator[Row]:
    """``count`` avatars, as many of each style."""
    styles = avatar_styles()
    for style in styles:
        for number in range(count // len(styles)):
            sprite = avatar_sprite(style, number)
            yield Row(
                sprite.key, sprite.key, "dice", sprite.split, "", style, sprite.licence, (), WHOLE
            )  # fmt: skip


def tokenizer_rows(
    sprites: Sequence[Sprite], facts: Mapping[str, Facts], rows: Sequence[Row], settings: Settings, count: int
) -> list[Row]:
    """The image tokenizer's mixture: every trained drawing once, then variants up to ``count`` in all.

    Some rows to validate on come besides.
    """
    usable = [sprite for sprite in without_leaks(sprites, facts) if sprite.split == "train"]
    once = [_first_trained(sprite, facts[sprite.key], settings) for sprite in usable]
    avatars = [row for row in avatar_rows(settings.avatars_tokenizer) if row.split == "train"]
    there = {row.key for row in once}
    others = [row for row in rows if row.split == "train" and row.key not in there and row.source != "dice"]
    order = sorted(others, key=lambda row: fraction("tokenizer", row.key))
    validation = sorted(
        (row for row in rows if row.split == "val"), key=lambda row: fraction("tokenizer", row.key)
    )
    chosen = [*once, *avatars, *order][:count] + validation[:VALIDATED]
    return sorted(chosen, key=lambda row: (row.sprite, row.variant.colour, row.key))


def _first_trained(sprite: Sprite, facts: Facts, settings: Settings) -> Row:
    rows = rows_of(sprite, 8, facts, settings)
    return next(row for row in rows if row.split == "train")


def write_rows(rows: Iterable[Row], path: Path) -> Counter[tuple[str, str]]:
    """Write the table, JSON lines; returns counts by source and split."""
    counts: Counter[tuple[str, str]] = Counter()
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.line() + "\n")
            counts[row.source, row.split] += 1
    part.replace(path)
    return counts


def read_rows(path: Path) -> list[Row]:
    """The rows of a table."""
    with path.open(encoding="utf-8") as file:
        return [Row.from_line(line) for line in file]
