"""Composed scenes and their captions, with simple shapes in place of the packages' drawings."""

import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cogview.data.images import decode
from cogview.evaluation.metrics.colours import box_colour
from cogview.evaluation.metrics.scene_rules import Detection, ScenePrompt, judge
from cogview.evaluation.prompts import scene_prompts, thing_names

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import plan  # noqa: E402
import prompts  # noqa: E402
from backgrounds import Background  # noqa: E402
from colours import NAMES, recolour, shares  # noqa: E402
from scenes_source import ScenesSource  # noqa: E402
from sources import scene_words, splits, sprites, withheld  # noqa: E402
from sources.drawing import COLOURS, fraction  # noqa: E402
from sources.scene_cast import noun  # noqa: E402
from sources.scene_drawing import House  # noqa: E402
from sources.scene_layout import LEAST, SIDES, Outline, covered  # noqa: E402
from sources.scenes import LANDSCAPES, Composer, Noun, Placed, Scene, SceneThing  # noqa: E402
from things import load_things  # noqa: E402
from variants import Variant  # noqa: E402

sys.path.remove(str(ROOT))

NOUNS = (
    "cat 猫 只|dog 狗 只|owl 枭 只|fox 狐 只|horse 马 匹|pig 猪 头|sheep 绵羊 只 sheep|mouse 鼠 只 mice|"
    "apple 苹果 个|pear 梨 个|lemon 柠檬 个|peach 桃子 个 peaches|car 轿车 辆|bus 巴士 辆 buses|"
    "train 火车 列|house 房子 座|tent 帐篷 顶|chair 椅子 把|bed 床 张|lamp 台灯 盏|cup 杯子 个|"
    "spoon 勺子 把|drum 鼓 面|flute 笛子 支|hat 帽子 顶|shoe 鞋子 只|kite 风筝 只|ball 皮球 个|"
    "robot 机器人 个|rose 玫瑰 朵|tulip 郁金香 朵|leaf 叶子 片 leaves|umbrella 雨伞 把|unicorn 独角兽 只"
)
SUPPORTS = frozenset(("bed", "chair", "car", "drum"))
HUES = ("#e03131", "#fcc419", "#40b84a", "#2f6fff", "#8d5a2b", "#9546ea")


class Shape:
    """A drawing of one colour: an ellipse, a box or a triangle of some proportions."""

    paints = False

    def __init__(self, number: int) -> None:
        wide, high = ((128, 128), (128, 90), (76, 128), (128, 66))[number % 4]
        self.image = Image.new("RGBA", (wide, high))
        draw, colour = ImageDraw.Draw(self.image), HUES[number % len(HUES)]
        inside = (0, 0, wide - 1, high - 1)
        if number % 3 == 0:
            draw.ellipse(inside, colour)
        elif number % 3 == 1:
            draw.rounded_rectangle(inside, 15, colour)
        else:
            draw.polygon([(0, high - 1), (wide // 2, 0), (wide - 1, high - 1)], colour)

    def cut(self, paint: str | None = None) -> Image.Image:
        return self.image


@cache
def cast() -> tuple[tuple[SceneThing, ...], House]:
    things, drawings = [], {}
    for number, line in enumerate(NOUNS.split("|")):
        en, zh, measure, *plural = line.split()
        drawings[en] = Shape(number)
        image = drawings[en].cut()
        takes = tuple(name for name in NAMES if number % 2 == 0 and recolour(image, name))
        several = plural[0] if plural else f"{en}s"
        named = (Noun(en, several), Noun(f"toy {en}", f"toy {several}"))
        thing = SceneThing(
            key=en,
            en=named,
            zh=((zh, measure),),
            outline=Outline.of(image),
            own=next(iter(shares(image))),
            natural=next(iter(shares(image))) if number % 5 == 0 else None,
            colours=takes,
            support=en in SUPPORTS,
        )
        things.append(thing)
    return tuple(things), House(drawings)


@cache
def scenes(count: int, aligned: bool = False) -> tuple[Scene, ...]:
    return tuple(Composer(cast()[0], aligned).scenes(count))


either = pytest.mark.parametrize("aligned", [False, True])


def by_key() -> dict[str, SceneThing]:
    return {thing.key: thing for thing in cast()[0]}


def test_a_number_always_gives_the_same_scene_picture_and_words() -> None:
    things, house = cast()
    for number in range(0, 400, 13):
        scene, again = scenes(400)[number], Composer(things).scene(number)
        assert scene == again and json.loads(json.dumps(scene.spec()))["number"] == number
        assert house.draw(scene).tobytes() == House(house.drawings).draw(again).tobytes()
        assert scene_words.captions(scene, by_key()) == scene_words.captions(again, by_key())


def test_all_tasks_relations_and_backgrounds_occur() -> None:
    found = scenes(3000)
    assert {scene.task for scene in found} == {"one", "two", "count", "colour", "position", "colours", "more"}
    related = {scene.relation for scene in found} - {None}
    assert related == {"left", "right", "above", "below", "on", "behind"}
    behind = Counter(scene.background.kind for scene in found)
    assert set(behind) == {"white", "plain", "gradient", *LANDSCAPES}
    assert behind["white"] > len(found) / 2
    assert {len(scene.placed) for scene in found} == {1, 2, 3, 4}


def overlap(first: Placed, second: Placed) -> bool:
    a, b = first.box, second.box
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@either
def test_things_are_large_inside_the_picture_and_apart(aligned: bool) -> None:
    outlines = {thing.key: thing.outline for thing in cast()[0]}
    for scene in scenes(3000, aligned):
        for one in scene.placed:
            left, top, right, bottom = one.box
            assert left >= 0 and top >= 0 and right <= 256 and bottom <= 256
            assert max(right - left, bottom - top) >= (min(SIDES) if aligned else LEAST - 3)
            assert (right - left) / (bottom - top) == pytest.approx(outlines[one.thing].aspect, rel=0.04)
        for first, second in combinations(scene.placed, 2):
            if scene.relation not in ("on", "behind"):
                assert not overlap(first, second), scene
            else:
                assert overlap(first, second)


@either
def test_what_is_behind_stays_recognisable_and_is_covered(aligned: bool) -> None:
    outlines = {thing.key: thing.outline for thing in cast()[0]}
    for scene in scenes(3000, aligned):
        if scene.relation == "behind":
            back, front = scene.painted
            hidden = covered(back.box, outlines[back.thing], front.box, outlines[front.thing])
            assert 0.05 < hidden < 0.4


def test_aligned_things_are_of_few_sizes_on_the_grid_of_codes() -> None:
    """So that a thing is the same codes wherever it stands: a corner is a multiple of half a code."""
    half, free, kinds = 256 / 24, Counter(), defaultdict(set)
    for scene in scenes(3000, aligned=True):
        assert scene.background.seed < 3
        for one in scene.placed[-1:] if scene.relation in ("on", "behind") else scene.placed:
            left, top, right, bottom = one.box
            free["away"] += max(abs(edge / half - round(edge / half)) for edge in (left, top)) > 0.05
            kinds[one.thing].add((right - left, bottom - top))
    for scene in scenes(3000):
        for one in scene.placed:
            kinds["free " + one.thing].add((one.box[2] - one.box[0], one.box[3] - one.box[1]))
    assert not free["away"]
    for thing in cast()[0]:
        sizes = {max(size) for size in kinds[thing.key]}
        assert len(sizes) <= len(SIDES) < len(kinds["free " + thing.key]) / 3


# ---------------------------------------------------------------------------------------------- withheld


def shown(scene: Scene) -> Iterator[tuple[object, ...]]:
    """Every combination in a scene, found from its boxes alone."""
    names = Counter(one.thing for one in scene.placed)
    for one in scene.placed:
        if one.colour:
            yield "colour", one.thing, one.colour
        yield "place", one.thing, scene.background.kind
    for name, count in names.items():
        yield "count", name, count
    for a, b in combinations(sorted(names), 2):
        yield "pair", a, b
    for a in scene.placed:
        for b in scene.placed:
            if a.thing != b.thing and scene.relation not in ("on", "behind"):
                if a.box[2] <= b.box[0] and abs(a.box[1] + a.box[3] - b.box[1] - b.box[3]) < 60:
                    yield "left", a.thing, b.thing
                if a.box[3] <= b.box[1] and abs(a.box[0] + a.box[2] - b.box[0] - b.box[2]) < 60:
                    yield "above", a.thing, b.thing
    names_of = [one.thing for one in scene.placed]
    if scene.relation in ("right", "below"):
        yield {"right": "left", "below": "above"}[scene.relation], *names_of[::-1]
    elif scene.relation:
        yield scene.relation, *names_of


def is_withheld(kind: str, *parts: object) -> bool:
    """The hashes, written out again."""
    if kind == "colour":
        return splits.withheld_colour(str(parts[0]), str(parts[1]))
    if kind == "place":
        return parts[1] in LANDSCAPES and fraction("scene-place", *parts) < withheld.PLACE
    if kind == "count":
        return parts[1] != 1 and fraction("scene-count", *parts) < withheld.COUNT
    if kind == "pair":
        return fraction("scene-pair", *parts) < withheld.PAIR
    return fraction("scene-relation", kind, *parts) < withheld.RELATION


@either
def test_withheld_combinations_are_never_trained_on_but_all_their_parts_are(aligned: bool) -> None:
    trained: set[object] = set()
    kinds: dict[str, set[bool]] = defaultdict(set)
    for scene in scenes(20_000):
        found = {one: is_withheld(*map(str, one[:1]), *one[1:]) for one in shown(scene)}
        if scene.split == "test_comp":
            for (kind, *_), kept in found.items():
                kinds[str(kind)].add(kept)
        else:
            assert not any(found.values()), (scene, found)
            trained |= {part for one in found for part in one[1:]} if scene.split == "train" else set()
    assert all(True in kept for kept in kinds.values()) and len(kinds) == 8
    assert trained >= {thing.key for thing in cast()[0]} | set(NAMES) - {"white"} | {1, 2, 3, 4} | set(
        LANDSCAPES
    )


def test_shares_of_the_splits() -> None:
    found = Counter(scene.split for scene in scenes(20_000))
    assert found["test_comp"] / 20_000 == pytest.approx(0.05, abs=0.005)
    assert found["val"] / 20_000 == pytest.approx(0.01, abs=0.003)


def test_a_relation_is_withheld_with_its_opposite() -> None:
    for a, b in combinations(("cat", "dog", "owl", "fox", "car"), 2):
        assert withheld.relation_withheld("left", a, b) == withheld.relation_withheld("right", b, a)
        assert withheld.relation_withheld("above", a, b) == withheld.relation_withheld("below", b, a)
        assert withheld.pair_withheld(a, b) == withheld.pair_withheld(b, a)


# ----------------------------------------------------------------------------------------------- captions


LETTERS = "①②③④"
NUMBERS_EN = {"two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4, "one": 1, "a": 1, "an": 1}
NUMBERS_ZH = {"一": 1, "两": 2, "三": 3, "四": 4, "2": 2, "3": 3, "4": 4}
Mention = tuple[str, int, str | None]  # thing, count, colour


def mentions_en(text: str) -> tuple[list[Mention], str]:
    """What an English caption mentions, in order, and the caption with ①, ②, ③ in their places."""
    nouns = [(thing.key, noun) for thing in cast()[0] for noun in thing.en]
    names = {noun.name: (key, 0) for key, noun in nouns} | {noun.plural: (key, 1) for key, noun in nouns}
    names |= {noun.name: (key, -1) for key, noun in nouns if noun.name == noun.plural}
    forms = "|".join(sorted(map(str, names), key=len, reverse=True))
    number = "|".join(NUMBERS_EN)
    size = "small|little|tiny|big|large|huge"
    pattern = rf"\b(?:({number}) )?(?:({size}) )?(?:({'|'.join(COLOURS)}) )?\b({forms})\b"
    found: list[Mention] = []
    rest = list[str]()
    start = 0
    for match in re.finditer(pattern, text.lower()):
        key, plural = names[match[4]]
        count = NUMBERS_EN.get(match[1] or "one", 1)
        assert plural == -1 or (count > 1) == bool(plural), text
        found.append((key, count, match[3]))
        rest.append(text[start : match.start()] + LETTERS[len(found) - 1])
        start = match.end()
    return found, "".join(rest) + text[start:]


def mentions_zh(text: str) -> tuple[list[Mention], str]:
    """The same of a Chinese caption; a number needs the thing's own measure word."""
    names = {name: (thing.key, measure) for thing in cast()[0] for name, measure in thing.zh}
    paints = {zh: en for en, zh in COLOURS.items()} | {zh[0]: en for en, zh in COLOURS.items()}
    forms = "|".join(sorted(names, key=len, reverse=True))
    paint = "|".join(sorted(paints, key=len, reverse=True))
    measure = "|".join({measure for _, measure in names.values()})
    size = "很小的|小小的|很大的|大大的|巨大的"
    pattern = rf"(?:([{''.join(NUMBERS_ZH)}])({measure}))?(?:{size})?(?:({paint})的?)?({forms})"
    found: list[Mention] = []
    rest, start = list[str](), 0
    for match in re.finditer(pattern, text):
        key, own = names[match[4]]
        assert match[2] in (None, own), text
        found.append((key, NUMBERS_ZH.get(match[1] or "一", 1), paints.get(match[3] or "")))
        rest.append(text[start : match.start()] + LETTERS[len(found) - 1])
        start = match.end()
    return found, "".join(rest) + text[start:]


# Which of ① and ② is first: in "left" the one on the left, in "on" the upper one, in "behind" the back one.
SAYS_EN = {
    "left": r"① (to the|on the)? ?left of ②|② (to the|on the)? ?right of ①|① on the left(,| and) ② on the "
    r"right|② on the right(,| and) ① on the left|on the left ①, on the right ②",
    "above": r"① (above|over) ②|② (below|under|beneath|underneath) ①|① at the top and ② at the bottom"
    r"|① above, ② below",
    "on": r"① on (top of )?②|② with ① on (it|top)",
    "behind": r"① (partly hidden )?behind ②|② in front of ①|② with ① behind it",
}
SAYS_ZH = {
    "left": r"①在②的?左[边侧]|②在①的?右边|左边(是)?①，右边(是)?②|右边是②，左边是①"
    "|②的?左边有①|①的?右边[是有]②",
    "above": r"①在②的?上[面方]|②在①的?下[面方]|上面(是)?①，下面(是)?②|②上方有①|①的?下面是②",
    "on": r"①在②上|②上面?有①|②上的①",
    "behind": r"①在②的?后面|②后面有①|②在①的?前面",
}
BESIDE = r"next to|beside|side by side|并排|旁边"


def said_relation(rest: str, says: dict[str, str], scene: Scene) -> tuple[str, str, str] | None:
    """(relation, first letter, second letter) as the words say it, the letters as they occur."""
    for relation, pattern in says.items():
        if relation == "above" and scene.relation == "on" and re.search(r"①在②上面", rest):
            continue  # 在…上面 also means "on"
        for first, second in ("①②", "②①"):
            turned = pattern.translate(str.maketrans("①②", first + second))
            if re.search(turned, rest, re.IGNORECASE) and not re.search("[③④]", rest):
                return relation, first, second
    return None


def centre(one: Placed, axis: int) -> float:
    return one.box[axis] + one.box[axis + 2]


def holds(relation: str, first: Sequence[Placed], second: Sequence[Placed], scene: Scene) -> bool:
    if relation in ("on", "behind"):
        return scene.relation == relation and scene.placed[0] == first[0]
    axis = 0 if relation == "left" else 1
    return all(centre(a, axis) < centre(b, axis) for a in first for b in second)


def check(text: str, found: list[Mention], rest: str, scene: Scene, says: dict[str, str]) -> str | None:
    """Every group is named once, with its count and a true colour; a relation said is the boxes'."""
    groups: dict[tuple[str, str | None], list[Placed]] = defaultdict(list)
    for one in scene.placed:
        groups[one.thing, one.colour].append(one)
    assert len(found) == len(groups), (text, found)
    members = []
    for thing, count, colour in found:
        painted = next(paint for name, paint in groups if name == thing)
        assert len(groups[thing, painted]) == count, text
        assert colour == painted or (painted is None and colour == by_key()[thing].natural), text
        members.append(groups[thing, painted])
    if re.search(BESIDE, rest):
        boxes = [one.box for one in scene.placed]
        assert abs(boxes[0][0] - boxes[1][0]) > abs(boxes[0][1] - boxes[1][1]), text
    relation = said_relation(rest, says, scene)
    if relation:
        first, second = (members[LETTERS.index(letter)] for letter in relation[1:])
        assert holds(relation[0], first, second, scene), (text, scene)
    return relation[0] if relation else None


def test_captions_say_what_the_boxes_show() -> None:
    heard: Counter[tuple[str, str | None]] = Counter()
    for scene in scenes(1200):
        for words in scene_words.captions(scene, by_key()):
            heard["en", check(words.en, *mentions_en(words.en), scene, SAYS_EN)] += 1
            heard["zh", check(words.zh, *mentions_zh(words.zh), scene, SAYS_ZH)] += 1
    for language in ("en", "zh"):
        for relation in ("left", "above", "on", "behind"):
            assert heard[language, relation] > 100, heard


def test_positions_are_said_in_most_captions_of_their_scenes_and_both_ways_round() -> None:
    ways: Counter[str] = Counter()
    for scene in scenes(1200):
        if scene.relation in ("left", "right") and scene.task == "position":
            for words in scene_words.captions(scene, by_key()):
                ways[
                    "left of" if "left of" in words.en else "right of" if "right of" in words.en else ""
                ] += 1
    assert ways["left of"] > 100 and ways["right of"] > 100
    assert ways[""] < sum(ways.values()) * 0.65


def test_what_differs_from_a_plain_picture_is_always_said() -> None:
    for scene in scenes(1500):
        first, *others = scene_words.captions(scene, by_key())
        phrases = [phrase.en for phrase in scene.background.phrases]
        if scene.background.kind == "white":
            assert "background" not in first.en
        else:
            for words in (first, *others):
                assert any(phrase in words.en.lower() for phrase in phrases)
        for words in (first, *others):
            assert scene.size != "small" or re.search(r"\b(small|little|tiny)\b", words.en.lower())
            assert scene.relation != "behind" or re.search("behind|front", words.en)
            assert not scene.place or re.search("left|right|top|bottom", words.en)
            if "background" in words.en and scene.background.kind == "white":
                assert "white background" in words.en.lower()


def test_chinese_is_well_formed() -> None:
    for scene in scenes(1200):
        for words in scene_words.captions(scene, by_key()):
            assert not re.search("的的|，，|二[个只]|[两三四]的|有有|在在|上上面", words.zh), words.zh
            assert not re.search(r"[A-Za-z]", words.zh)
            assert not re.search(r"\b(a|an) (a|an|two|three|four|one)\b|\s{2}|,,", words.en), words.en


@pytest.mark.parametrize(
    ("noun", "style", "said"),
    [
        (Noun("apple", "apples"), "article", "an apple"), (Noun("apple", "apples"), "one", "one apple"),
        (Noun("apple", "apples"), "bare", "apple"), (Noun("bread", None, ""), "article", "bread"),
        (Noun("sun", None, "the"), "article", "the sun"),
        (Noun("jeans", "jeans", unit="pair"), "article", "a pair of jeans"),
        (Noun("jeans", "jeans", unit="pair"), "one", "one pair of jeans"),
    ],
)  # fmt: skip
def test_nouns_take_their_articles(noun: Noun, style: str, said: str) -> None:
    thing = replace(by_key()["apple"], en=(noun,))
    group = scene_words.Group(thing, (Placed("apple", (0, 0, 9, 9)),), None)
    assert scene_words.noun_en(random.Random(0), group, style) == said


def test_a_name_that_says_a_colour_or_a_size_is_not_given_another() -> None:
    thing = replace(
        by_key()["apple"],
        en=(Noun("salad", "salads"), Noun("green salad", "green salads")),
        zh=(("猫", "只"), ("小猫", "只"), ("白猫", "只")),
    )
    placed, chance = (Placed("apple", (0, 0, 9, 9)),), random.Random(0)
    for _ in range(40):
        said = scene_words.noun_en(chance, scene_words.Group(thing, placed, "red"), "bare")
        assert said == "red salad"
        assert scene_words.noun_zh(chance, scene_words.Group(thing, placed, None), "很大的")[0] == "很大的猫"


# ------------------------------------------------------------------------------------------------ pictures


def detections(scene: Scene, picture: Image.Image) -> list[Detection]:
    """What a perfect reader would find."""
    pixels = np.asarray(picture)
    return [Detection(one.thing, one.box, 1.0, box_colour(pixels, one.box)) for one in scene.placed]


def test_prompts_are_withheld_true_of_their_pictures_and_judged_right() -> None:
    things, house = cast()
    tasks: Counter[str] = Counter()
    colours = list[bool]()
    for scene, words in prompts.Asker(things).scenes(20):
        asked = ScenePrompt.model_validate(prompts.scene_row(scene, words))
        tasks[asked.task] += 1
        assert any(is_withheld(str(one[0]), *one[1:]) for one in shown(scene)), asked
        check(words.en, *mentions_en(words.en), scene, SAYS_EN)
        check(words.zh, *mentions_zh(words.zh), scene, SAYS_ZH)
        verdict = judge(asked, detections(scene, house.draw(scene)))
        if any(one.colour for one in asked.asked):
            colours.append(verdict.right)
        else:
            assert verdict.right, (asked, scene)
    assert set(tasks) == {"one", "two", "count", "colour", "position", "colours"}
    assert sum(colours) >= 0.95 * len(colours)


def test_other_scenes_fail_a_prompt() -> None:
    """Prompts asked of the pictures of other prompts of their task are hardly ever right."""
    things, house = cast()
    rows = [
        (ScenePrompt.model_validate(prompts.scene_row(scene, words)), detections(scene, house.draw(scene)))
        for scene, words in prompts.Asker(things).scenes(12)
    ]
    chance, right = random.Random(0), 0
    for asked, _ in rows:
        others = [seen for other, seen in rows if other.task == asked.task and other.asked != asked.asked]
        right += judge(asked, chance.choice(others)).right
    assert right < 0.1 * len(rows)


def test_a_thing_s_names_are_its_prompts() -> None:
    row = prompts.thing_row(load_things()["apple"])
    assert row["en"][:2] == ["apple", "an apple"] and row["zh"][:2] == ["苹果", "一个苹果"]
    assert len(row["en"]) == len(set(row["en"])) == 5 and len(row["zh"]) == len(set(row["zh"])) == 5


def test_the_shipped_prompts_are_of_withheld_combinations_of_real_things() -> None:
    known = load_things()
    for prompt in scene_prompts():
        names = [asked.thing for asked in prompt.asked]
        assert set(names) <= set(known)
        combinations_of = {
            "one": ("place", names[0], prompt.place),
            "two": ("pair", *sorted(names)),
            "count": ("count", names[0], prompt.asked[0].count),
            "colour": ("colour", names[0], prompt.asked[0].colour),
            "colours": ("pair", *sorted(names)),
        }
        if prompt.relation:
            turned = prompt.relation in ("right", "below")
            relation = {"right": "left", "below": "above"}.get(prompt.relation, prompt.relation)
            assert is_withheld(relation, *(names[::-1] if turned else names)), prompt
        else:
            kind, *parts = combinations_of[prompt.task]
            assert is_withheld(str(kind), *parts), prompt


# ------------------------------------------------------------------------------------------------- corpus


class Silhouette:
    """A drawing of one colour that is drawn in any paint."""

    paints = True

    def cut(self, paint: str | None = None) -> Image.Image:
        return Image.new("RGBA", (128, 128), paint or "black")


def test_a_drawing_of_one_colour_is_drawn_in_its_paint() -> None:
    house = House({"disc": Silhouette()})
    for colour in ("red", "blue", "white"):
        painted = house.placed(Placed("disc", (10, 10, 60, 60), colour))
        assert painted.size == (50, 50)
        assert next(iter(shares(painted))) == colour
    assert next(iter(shares(house.placed(Placed("disc", (10, 10, 60, 60)))))) == "black"


def test_a_colour_that_a_drawing_cannot_have_is_an_error() -> None:
    stripes = Image.new("RGBA", (64, 64), "#e03131")
    for number, colour in enumerate(HUES):
        stripes.paste(Image.new("RGBA", (64, 10), colour), (0, 10 * number))
    shape = Shape(0)
    shape.image = stripes
    with pytest.raises(ValueError, match="stripes cannot be painted blue"):
        House({"stripes": shape}).placed(Placed("stripes", (0, 0, 90, 90), "blue"))


def test_every_thing_is_said_well_in_every_number() -> None:
    """The list's real names, as scenes use them."""
    chance = random.Random(0)
    for entry in load_things().values():
        thing = replace(
            by_key()["apple"],
            key=entry.key,
            en=tuple(noun(entry, name) for name in entry.en),
            zh=tuple((name, entry.measure_of(name)) for name in entry.zh),
        )
        for count in (1, 2, 3, 4) if thing.counted else (1,):
            group = scene_words.Group(thing, (Placed(entry.key, (0, 0, 9, 9)),) * count, None)
            for style in ("article", "bare", "one"):
                en = scene_words.noun_en(chance, group, style)
                zh = scene_words.noun_zh(chance, group)
                assert not re.search(r"\b(a|an|the|one) (a|an|the)\b|\s\s|None", en), en
                assert re.match("(two|three|four|[234]) ", en) if count > 1 else True
                assert all(re.search("[一-鿿]", text) and "None" not in text for text in zh)
                assert count == 1 or re.match("[两三四234][一-鿿]", zh[1])


def test_a_source_reads_on_from_any_number() -> None:
    things, house = cast()
    source = ScenesSource(things, house, 30)
    records = list(source.records())
    assert len(records) == len(source) == 30 and not any(record.problem for record in records)
    assert list(source.records(20)) == records[20:]
    for record in records:
        assert isinstance(record.image, bytes) and decode(record.image).image.size == (256, 256)
        said = [(caption.text, caption.language) for caption in record.captions]
        assert len(set(said)) == len(said) and {language for _, language in said} == {"en", "zh"}
    assert source.fingerprint() == ScenesSource(things, house, 30).fingerprint()
    assert source.fingerprint() != ScenesSource(things[:-1], house, 30).fingerprint()


def test_single_drawings_keep_out_of_withheld_landscapes_too() -> None:
    drawing = sprites.Sprite(
        "noto/cat", "emoji", "noto", "cat", (), "Apache-2.0", "train", sprites.File(Path()), thing="cat"
    )
    for place in LANDSCAPES:
        shown = Variant(200, 128, 128, background=Background(place))
        split = plan.row_split(drawing, 1, shown)
        assert (split == "test_comp") is withheld.place_withheld("cat", place)


def test_the_shipped_names_are_those_of_all_things() -> None:
    rows = [prompts.thing_row(thing) for thing in load_things().values()]
    assert [names.model_dump(mode="json") for names in thing_names()] == rows
