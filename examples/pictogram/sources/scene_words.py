"""Captions of scenes as people type prompts, in both languages; each says only what the picture shows.

Every wording comes from a generator that depends on the scene's number alone. The first says what the scene
was made for and what is behind; others leave parts out, name the things in the other order, say a relation
the other way round, or say all there is. As in all captions of the corpus a bare name means the thing alone,
in its own colours, on white: what differs is always said.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backgrounds import Background
from things import COLOUR_CHARACTERS, COLOUR_WORDS, EN_NUMBERS, ZH_NUMBERS, with_article

from cogview.evaluation.metrics.scene_rules import directions
from sources.drawing import COLOURS, Words
from sources.scenes import Noun, Placed, Scene, SceneThing

WORDINGS = 6
SHORT_ZH = frozenset(("red", "yellow", "green", "blue", "white", "black"))  # 红苹果, but not 橙苹果
SPOTS_EN = {
    (-1, -1): "top left", (0, -1): "top", (1, -1): "top right", (-1, 0): "left", (1, 0): "right",
    (-1, 1): "bottom left", (0, 1): "bottom", (1, 1): "bottom right",
}  # fmt: skip
SPOTS_ZH = {
    (-1, -1): "左上角", (0, -1): "上方", (1, -1): "右上角", (-1, 0): "左边", (1, 0): "右边",
    (-1, 1): "左下角", (0, 1): "下方", (1, 1): "右下角",
}  # fmt: skip
# Names that say a size or a colour themselves: "a red green salad", 巨大的小猫.
SIZED_EN = re.compile(r"\b(small|little|tiny|big|large|huge|baby|giant)\b")
SIZED_ZH = re.compile("^[小大]|彩")
SIZES_EN = {"small": ("small", "little", "tiny"), "large": ("big", "large", "huge")}
SIZES_ZH = {"small": ("很小的", "小小的"), "large": ("很大的", "大大的", "巨大的")}
RELATED_EN: Mapping[str, tuple[str, ...]] = {  # {a} is the first thing, {b} the second
    "left": (
        "{a} to the left of {b}", "{a} on the left of {b}", "{a} left of {b}", "{b} to the right of {a}",
        "{b} on the right of {a}", "{a} on the left and {b} on the right",
        "{b} on the right, {a} on the left",
        "{a} on the left, {b} on the right", "on the left {a}, on the right {b}",
    ),
    "above": (
        "{a} above {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}", "{b} beneath {a}",
        "{a} at the top and {b} at the bottom", "{a} above, {b} below", "{b} underneath {a}",
    ),
    "on": (
        "{a} on {b}", "{a} on top of {b}", "{b} with {a} on it", "{b} with {a} on top", "{a} on {b}",
    ),
    "behind": (
        "{a} behind {b}", "{b} in front of {a}", "{a} partly hidden behind {b}", "{b} with {a} behind it",
    ),
}  # fmt: skip
RELATED_ZH: Mapping[str, tuple[str, ...]] = {  # {a0}: without 一只, {a1}: with it, {a}: either
    "left": (
        "{a}在{b0}的左边", "{a}在{b0}左边", "{b}在{a0}的右边", "{b}在{a0}右边", "左边是{a}，右边是{b}",
        "右边是{b}，左边是{a}", "{b0}的左边有{a1}", "{a0}的右边是{b1}", "左边{a}，右边{b}", "{a}在{b0}左侧",
        "{a1}在{b1}的左边", "{b1}在{a1}的右边", "{a0}右边有{b1}",
    ),
    "above": (
        "{a}在{b0}的上面", "{a}在{b0}上方", "{b}在{a0}下面", "{b}在{a0}的下方", "上面是{a}，下面是{b}",
        "{b0}上方有{a1}", "{a0}的下面是{b1}", "上面{a}，下面{b}", "{a1}在{b1}的上面", "{b1}在{a1}的下面",
    ),
    "on": (
        "{a}在{b0}上", "{b0}上有{a1}", "{a}在{b0}上面", "{b0}上面有{a1}", "{b0}上的{a}", "{a1}在{b1}上",
    ),
    "behind": (
        "{a}在{b0}后面", "{a}在{b0}的后面", "{b0}后面有{a1}", "{b}在{a0}前面", "{b}在{a0}的前面",
        "{a1}在{b1}后面", "{b1}在{a1}前面",
    ),
}  # fmt: skip
BESIDE_EN = (
    "{a} next to {b}",
    "{a} beside {b}",
    "{a} and {b} side by side",
    "{a} and {b} next to each other",
)
BESIDE_ZH = ("{a}和{b}并排", "{a0}旁边有{b1}", "{a}在{b0}旁边", "{a0}旁边是{b1}", "并排的{a}和{b}")
JOINED_EN = (
    *("{a} and {b}",) * 9,
    *("{a}, {b}", "{a} & {b}", "{a} with {b}", "{a} plus {b}", "{a} together with {b}"),
)
JOINED_ZH = ("{a}和{b}",) * 7 + ("{a}与{b}", "{a}跟{b}", "{a}还有{b}")
LOOSE_ZH = ("{a}、{b}", "{a}，{b}", "{a} {b}")
LISTED_EN = re.compile(r",|\b(left|right|top|bottom|above|below|middle)$")  # what follows, follows a comma
FOLLOWS_EN = re.compile(r"(on|in|at|with|against|under|among|by|inside)\b")
WHITE = (
    Words("on a white background", "白色背景"),
    Words("white background", "背景是白色的"),
    Words("with a white background", "在白色背景上"),
)
OPPOSITE = {"right": "left", "below": "above"}


@dataclass(frozen=True)
class Group:
    """Things of one kind and colour, which a caption names together."""

    thing: SceneThing
    placed: tuple[Placed, ...]
    colour: str | None  # that is said: the painted one, or the drawing's own

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.placed)


@dataclass(frozen=True)
class Said:
    """What one wording says besides the place: things with their colours, relation, size, background."""

    groups: tuple[Group, ...]
    relation: str | None
    size: str | None
    background: bool


def captions(scene: Scene, things: Mapping[str, SceneThing], count: int = WORDINGS) -> list[Words]:
    """Different wordings: what the scene was made for, all there is to say, then others with parts left out.

    Fewer than ``count`` where no more were found.
    """
    chance = random.Random(f"scene-words:{scene.number}")
    found: dict[Words, None] = {}
    for turn in range(3 * count):
        found[wording(chance, scene, _said(chance, scene, things, turn))] = None
        if len(found) == count:
            break
    return list(found)


def wording(chance: random.Random, scene: Scene, said: Said) -> Words:
    """What is said, in both languages; not always in the same order."""
    return Words(_english(chance, scene, said), _chinese(chance, scene, said))


def groups_of(scene: Scene, things: Mapping[str, SceneThing], own: bool) -> list[Group]:
    """The things by kind and colour, in the order in which they stand; ``own``: say unpainted colours too."""
    found = []
    for thing, colour in dict.fromkeys((one.thing, one.colour) for one in scene.placed):
        placed = tuple(one for one in scene.placed if (one.thing, one.colour) == (thing, colour))
        natural = things[thing].natural if own else None
        found.append(Group(things[thing], placed, colour or natural))
    return found


def relation_of(scene: Scene, first: Group, second: Group) -> str | None:
    """How all of the first group lie to all of the second: one of the six relations, None where it varies."""
    if scene.relation in ("on", "behind"):
        return scene.relation if first.placed[0] == scene.placed[0] else None
    pairs = [directions(one.box, other.box) for one in first.placed for other in second.placed]
    shared = frozenset.intersection(*pairs)
    return next(iter(shared)) if len(shared) == 1 else None


def _said(chance: random.Random, scene: Scene, things: Mapping[str, SceneThing], turn: int) -> Said:
    dense = turn == 1
    groups = groups_of(scene, things, own=dense or (turn > 1 and chance.random() < 0.15))
    relation = relation_of(scene, *groups) if len(groups) == 2 else None
    silent = (0 if turn < 2 else 0.25) if scene.task == "position" else (0 if dense else 0.7)
    if relation not in ("on", "behind") and chance.random() < silent:
        relation = None
    size = scene.size if scene.size == "small" or turn < 2 or chance.random() < 0.5 else None
    behind = scene.background.kind != "white" or chance.random() < (0.5 if dense else 0.06 if turn else 0)
    if relation in OPPOSITE:
        groups, relation = groups[::-1], OPPOSITE[relation]
    elif relation is None and scene.relation not in ("on", "behind") and chance.random() < 0.4:
        groups.reverse()
    return Said(tuple(groups), relation, size, behind)


def _in_row(groups: Sequence[Group]) -> list[Group] | None:
    """Three groups from left to right, where each lies left of the next; None where they do not."""
    if len(groups) != 3:
        return None
    order = sorted(groups, key=lambda group: group.placed[0].box[0])
    clear = all(
        directions(one.box, other.box) == {"left"}
        for first, second in pairwise(order)
        for one in first.placed
        for other in second.placed
    )
    return order if clear else None


# ---------------------------------------------------------------------------------------------- English


def _fitting(names: Sequence[str], said: bool, colours: re.Pattern[str], sizes: re.Pattern[str]) -> list[int]:
    """The places of names that say no size or colour themselves; the first, where every one does."""
    if not said:
        return list(range(len(names)))
    return [n for n, name in enumerate(names) if not (colours.search(name) or sizes.search(name))] or [0]


def noun_en(chance: random.Random, group: Group, style: str, size: str | None = None) -> str:
    """A group in English; ``style`` is ``article``, ``bare`` or ``one``, for what there is one of."""
    nouns = [noun for noun in group.thing.en if noun.plural or group.count == 1]
    said = bool(size or group.colour)
    fitting = _fitting([noun.name for noun in nouns], said, COLOUR_WORDS, SIZED_EN)
    nouns = [nouns[place] for place in fitting]
    noun = nouns[0] if chance.random() < 0.6 else chance.choice(nouns)
    words = [word for word in (size, group.colour) if word]
    if group.count > 1:
        number = str(group.count) if chance.random() < 0.15 else EN_NUMBERS[group.count]
        text = " ".join([*words, str(noun.plural)])
        return f"{number} {noun.unit}s of {text}" if noun.unit else f"{number} {text}"
    text = " ".join([*words, noun.name])
    return text if style == "bare" else said_once(noun, text, "one" if style == "one" else "")


def said_once(noun: Noun, text: str = "", number: str = "") -> str:
    """A noun with its article, or a number in its place; ``text``: the noun with what stands before it."""
    text = text or noun.name
    if not noun.article:
        return text
    if noun.article == "the":
        return f"the {text}"
    text = f"{noun.unit} of {text}" if noun.unit else text
    return f"{number} {text}" if number else with_article(text)


def _english(chance: random.Random, scene: Scene, said: Said) -> str:
    style = chance.choices(("article", "bare", "one"), (74, 20, 6))[0]
    size = chance.choice(SIZES_EN[said.size]) if said.size else None
    nouns = [noun_en(chance, group, style, size) for group in said.groups]
    text = _core_en(chance, scene, said, nouns)
    if scene.place:
        spot = SPOTS_EN[scene.place]
        side = {"top": "at the top", "bottom": "at the bottom"}.get(spot, f"on the {spot}")
        corner = (f"in the {spot} corner", f"at the {spot}", f"in the {spot}")
        text += " " + (chance.choice(corner) if " " in spot else side)
    if said.background:
        text = _with_background_en(chance, scene.background, text)
    elif said.relation is None and chance.random() < 0.07:
        text = chance.choice(("a picture of {}", "a drawing of {}", "draw {}", "an image of {}")).format(text)
    return text[:1].upper() + text[1:] + "." if chance.random() < 0.06 else text


def _core_en(chance: random.Random, scene: Scene, said: Said, nouns: Sequence[str]) -> str:
    if len(nouns) == 1:
        return nouns[0]
    if len(nouns) == 2:
        if said.relation:
            forms: Sequence[str] = RELATED_EN[said.relation]
            if any(group.count > 1 for group in said.groups):
                forms = [form for form in forms if " it" not in form]
        else:
            beside = _side_by_side(said.groups) and chance.random() < 0.3
            forms = BESIDE_EN if beside else JOINED_EN
        return chance.choice(forms).format(a=nouns[0], b=nouns[1])
    order = _in_row(said.groups)
    if order and chance.random() < 0.3:
        left, middle, right = (nouns[said.groups.index(group)] for group in order)
        return f"{left} on the left, {middle} in the middle and {right} on the right"
    return ", ".join(nouns[:-1]) + chance.choice((" and ", ", and ")) + nouns[-1]


def _side_by_side(groups: Sequence[Group]) -> bool:
    """Whether two single things stand beside each other."""
    if any(group.count > 1 for group in groups):
        return False
    found = directions(groups[0].placed[0].box, groups[1].placed[0].box)
    return found in ({"left"}, {"right"})


def _phrase(chance: random.Random, background: Background) -> Words:
    return chance.choice(background.phrases or WHITE)


def _with_background_en(chance: random.Random, background: Background, text: str) -> str:
    phrase = _phrase(chance, background).en
    close = FOLLOWS_EN.match(phrase) and not LISTED_EN.search(text)
    forms = [f"{text} {phrase}" if close else f"{text}, {phrase}"] * 5 + [f"{phrase}, {text}"]
    return chance.choice(forms)


# ---------------------------------------------------------------------------------------------- Chinese


def noun_zh(chance: random.Random, group: Group, size: str | None = None) -> tuple[str, str]:
    """A group in Chinese without and with its measure word; what there are more of always has it."""
    names = [one for one in group.thing.zh if one[1] or group.count == 1]
    said = bool(size or group.colour)
    fitting = _fitting([name for name, _ in names], said, COLOUR_CHARACTERS, SIZED_ZH)
    names = [names[place] for place in fitting]
    name, measure = names[0] if chance.random() < 0.6 else chance.choice(names)
    text = (size or "") + _coloured_zh(chance, name, group.colour, bool(size))
    if group.count > 1:
        number = str(group.count) if chance.random() < 0.12 else ZH_NUMBERS[group.count]
        return (f"{number}{measure}{text}",) * 2
    return text, f"一{measure}{text}" if measure else text


def _coloured_zh(chance: random.Random, name: str, colour: str | None, sized: bool) -> str:
    if colour is None:
        return name
    paint = COLOURS[colour]
    forms = [f"{paint}的{name}"] * 2
    if len(name) > 1 and not sized:
        forms.append(f"{paint}{name}")
    if colour in SHORT_ZH and len(name) == 2:
        forms.append(f"{paint[0]}{name}")
    return chance.choice(forms)


def _chinese(chance: random.Random, scene: Scene, said: Said) -> str:
    size = chance.choice(SIZES_ZH[said.size]) if said.size else None
    counted = chance.random() < 0.55
    nouns = [noun_zh(chance, group, size) for group in said.groups]
    text, sentence = _core_zh(chance, said, nouns, counted)
    if scene.place:
        spot = chance.choice(("", "画面", "图片")) + SPOTS_ZH[scene.place]
        forms = (f"{text}在{spot}", f"{spot}的{text}", f"{spot}有{nouns[0][1]}")
        text, sentence = chance.choice(forms), True
    if said.background:
        counted = counted or said.groups[0].count > 1
        text = _with_background_zh(chance, scene.background, text, sentence, counted)
    elif not sentence and not re.search("[， ]", text) and chance.random() < 0.07:
        text = chance.choice(("画{}", "{}的图片", "{}的图")).format(text)
    return text + "。" if chance.random() < 0.05 else text


def _core_zh(
    chance: random.Random, said: Said, nouns: Sequence[tuple[str, str]], counted: bool
) -> tuple[str, bool]:
    """The things, and whether that is a sentence already."""
    styled = [noun[counted] for noun in nouns]
    if len(nouns) == 1:
        return styled[0], False
    if len(nouns) == 2:
        joined = said.relation is None
        if said.relation:
            form = chance.choice(RELATED_ZH[said.relation])
        elif _side_by_side(said.groups) and chance.random() < 0.3:
            form, joined = chance.choice(BESIDE_ZH), False
        else:
            form = chance.choice(JOINED_ZH if said.background else JOINED_ZH + LOOSE_ZH)
        for letter, noun in zip("ab", nouns, strict=True):
            if "的" in noun[0]:  # 青色的雨伞右边, not 青色的雨伞的右边
                form = form.replace(f"{{{letter}0}}的", f"{{{letter}0}}")
        words = {"a": styled[0], "b": styled[1], "a0": nouns[0][0], "b0": nouns[1][0]}
        return form.format(**words, a1=nouns[0][1], b1=nouns[1][1]), not joined
    order = _in_row(said.groups)
    if order and chance.random() < 0.3:
        left, middle, right = (styled[said.groups.index(group)] for group in order)
        return f"左边是{left}，中间是{middle}，右边是{right}", True
    return "、".join(styled[:-1]) + "和" + styled[-1], False


def _with_background_zh(
    chance: random.Random, background: Background, text: str, sentence: bool, counted: bool
) -> str:
    phrase = _phrase(chance, background).zh
    if not phrase.startswith("在"):
        return chance.choice((f"{text}，{phrase}", f"{text}，{phrase}", f"{phrase}，{text}"))
    place = phrase[1:]
    if sentence:
        return chance.choice((f"{place}，{text}", f"{text}，{phrase}"))
    forms = [f"{text}{phrase}", f"{place}的{text}", f"{text}，{phrase}"]
    return chance.choice([*forms, *([f"{place}有{text}"] * 2 if counted else ())])
