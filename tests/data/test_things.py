"""The everyday things of examples/pictogram: the list itself, its loader and its English and Chinese."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import things as module  # noqa: E402
from things import (  # noqa: E402
    Thing,
    ThingsError,
    load_classes,
    load_rare,
    load_things,
    many,
    one,
    plural_of,
    with_article,
)

sys.path.remove(str(ROOT))

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pictogram"
THINGS = load_things()

COCO = """
person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|
parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|
backpack|umbrella|handbag|tie|suitcase|frisbee|
skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|
wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|
chair|couch|potted plant|bed|dining table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|
toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush
"""
CIFAR100 = """
beaver|dolphin|otter|seal|whale|aquarium_fish|flatfish|ray|shark|trout|orchid|poppy|rose|sunflower|tulip|
bottle|bowl|can|cup|plate|apple|mushroom|orange|pear|sweet_pepper|clock|keyboard|lamp|telephone|television|
bed|chair|couch|table|wardrobe|bee|beetle|butterfly|caterpillar|cockroach|bear|leopard|lion|tiger|wolf|
bridge|castle|house|road|skyscraper|cloud|forest|mountain|plain|sea|camel|cattle|chimpanzee|elephant|
kangaroo|fox|porcupine|possum|raccoon|skunk|crab|lobster|snail|spider|worm|baby|boy|girl|man|woman|
crocodile|dinosaur|lizard|snake|turtle|hamster|mouse|rabbit|shrew|squirrel|maple_tree|oak_tree|palm_tree|
pine_tree|willow_tree|bicycle|bus|motorcycle|pickup_truck|train|lawn_mower|rocket|streetcar|tank|tractor
"""
UNDRAWN = {
    "coco": {"fire hydrant", "parking meter", "surfboard"},
    "cifar100": {"chimpanzee", "lawn_mower", "maple_tree", "orchid", "possum", "shrew"},
}
MEASURES = set("只头匹条个张朵束棵盆支株片丛根串颗块份包桶碗杯罐瓶盒把双副口台辆列架枚艘座间所家扇面"
               "盏卷筒件顶部本封沓幅轮弯场道阵股团处坨对位缕节叠")  # fmt: skip


def slugs() -> dict[str, set[str]]:
    """The names of every drawing in the icon sets, as their packages list them."""
    lines = (FIXTURES / "slugs.txt").read_text("utf-8").splitlines()
    return {line.split()[0]: set(line.split()[1:]) for line in lines}


def emoji_sets() -> dict[str, set[str]]:
    """Code points to the emoji sets that draw them (skin tones left out)."""
    names, *lines = (FIXTURES / "emoji.txt").read_text("utf-8").splitlines()
    drawn = {}
    for code, bits in map(str.split, lines):
        drawn[code] = {name for name, bit in zip(names.split(), bits, strict=True) if bit == "1"}
    return drawn


# ---------------------------------------------------------------------------------------------- the list


def test_the_list_is_as_large_as_promised_and_has_every_group() -> None:
    groups = Counter(thing.group for thing in THINGS.values())
    assert len(THINGS) >= 500
    assert set(groups) == set(module.GROUPS)
    assert min(groups.values()) >= 10


def test_no_name_belongs_to_two_things() -> None:
    owners: dict[str, set[str]] = {}
    for key, thing in THINGS.items():
        for name in (*thing.en, *thing.zh):
            owners.setdefault(name.lower(), set()).add(key)
    assert {name: keys for name, keys in owners.items() if len(keys) > 1} == {}


def test_every_drawing_exists() -> None:
    names = slugs()
    for key, thing in THINGS.items():
        drawings = [(icon_set, slug) for icon_set, some in thing.icons.items() for slug in some]
        if "/" in thing.house:
            drawings.append(thing.house_drawing)
        missing = [drawing for drawing in drawings if drawing[1] not in names[drawing[0]]]
        assert not missing, key


def test_every_code_point_is_drawn_by_its_house() -> None:
    drawn = emoji_sets()
    for key, thing in THINGS.items():
        for code in thing.emoji:
            assert drawn.get(code), (key, code)
            assert set(thing.not_in.get(code, ())) <= drawn[code] | {"fxemoji"}, (key, code)
        if "/" not in thing.house:
            assert thing.house in drawn[thing.emoji[0]], key


def test_every_thing_has_drawings_in_two_sets_unless_it_is_rarely_drawn() -> None:
    drawn, alone = emoji_sets(), set()
    for key, thing in THINGS.items():
        sets = {thing.house_drawing[0], *thing.icons}
        for code in thing.emoji:
            sets |= drawn[code] - set(thing.not_in.get(code, ()))
        alone |= {key} if len(sets) == 1 else set()
    assert len(alone) <= 40


@pytest.mark.parametrize(("dataset", "names"), [("coco", COCO), ("cifar100", CIFAR100)])
def test_every_class_of_coco_and_cifar_is_a_thing_or_has_no_drawing(dataset: str, names: str) -> None:
    classes = load_classes()[dataset]
    assert set(classes) == set(names.replace("\n", "").split("|"))
    assert {name for name, thing in classes.items() if thing is None} == UNDRAWN[dataset]
    assert {thing for thing in classes.values() if thing} <= set(THINGS)


def test_everything_asked_for_first_is_there() -> None:
    asked = """
        cat dog horse panda apple banana watermelon carrot bread pizza hamburger cake coffee tea car
        bus train airplane rocket house castle bridge chair bed table lamp knife spoon hat dress
        shoe hammer guitar piano violin balloon kite dice tree rose sunflower cactus sun moon star
        cloud rain rainbow snowman fire mountain beach sunset eye hand baby doctor chef astronaut
        teacher king queen princess dragon unicorn ghost robot alien monster heart circle triangle
        book phone computer camera key umbrella clock gift
    """
    names = {name for thing in THINGS.values() for name in thing.en}
    assert set(asked.split()) <= names
    assert {"happy face", "sad face", "angry face", "surprised face", "police officer", "red flag"} <= names
    chinese = {name for thing in THINGS.values() for name in thing.zh}
    asked = "猫 狗 熊猫 苹果 汽车 飞机 房子 花 树 太阳 月亮 星星 笑脸 医生 机器人 龙 饺子 月饼 红包 灯笼"
    assert set(asked.split()) <= chinese


def test_chinese_names_are_chinese_and_measure_words_known() -> None:
    for thing in THINGS.values():
        for name in thing.zh:
            assert re.fullmatch(r"(T|V|OK)?[㐀-鿿]+", name), name
        assert {thing.measure, *thing.measures.values()} <= MEASURES | {""}, thing.key


def test_emoji_withheld_from_training_are_no_everyday_things() -> None:
    rare, drawn = load_rare(things=THINGS), emoji_sets()
    assert 30 <= len(rare) <= 40
    everyday = {code for thing in THINGS.values() for code in thing.emoji}
    assert not everyday & {entry.emoji for entry in rare.values()}
    assert all(len(drawn[entry.emoji]) >= 4 for entry in rare.values())


# ---------------------------------------------------------------------------------------------- language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apple", "an"), ("car", "a"), ("hour", "an"), ("hourglass", "an"), ("house", "a"),
        ("umbrella", "an"), ("unicorn", "a"), ("uniform", "a"), ("UFO", "a"), ("SUV", "an"), ("TV", "a"),
        ("T-shirt", "a"), ("X mark", "an"), ("NFL football", "an"), ("PC", "a"),
        ("European castle", "a"), ("ewe", "a"), ("owl", "an"), ("one-piece swimsuit", "a"),
        ("onion", "an"), ("urn", "an"), ("8 ball", "an"), ("Eiffel Tower", "an"), ("utensil", "a"),
        ("unhappy face", "an"), ("ukulele", "a"), ("orange", "an"),
    ],
)  # fmt: skip
def test_articles_follow_the_sound(text: str, expected: str) -> None:
    assert with_article(text) == f"{expected} {text}"


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("car", "cars"), ("bus", "buses"), ("box", "boxes"), ("watch", "watches"),
        ("toothbrush", "toothbrushes"), ("baby", "babies"), ("monkey", "monkeys"),
        ("cherry", "cherries"), ("knife", "knives"), ("leaf", "leaves"), ("wolf", "wolves"),
        ("scarf", "scarves"), ("giraffe", "giraffes"), ("bookshelf", "bookshelves"), ("mouse", "mice"),
        ("computer mouse", "computer mice"), ("goose", "geese"), ("sheep", "sheep"), ("deer", "deer"),
        ("tropical fish", "tropical fish"), ("jellyfish", "jellyfish"), ("octopus", "octopuses"),
        ("man", "men"), ("woman", "women"), ("snowman", "snowmen"), ("human", "humans"),
        ("person", "people"), ("child", "children"), ("tooth", "teeth"), ("foot", "feet"),
        ("potato", "potatoes"), ("piano", "pianos"), ("kangaroo", "kangaroos"),
        ("superhero", "superheroes"), ("volcano", "volcanoes"), ("UFO", "UFOs"),
        ("slice of pizza", "slices of pizza"), ("loaf of bread", "loaves of bread"),
        ("face with heart eyes", "faces with heart eyes"), ("bow and arrow", "bows and arrows"),
        ("person riding a bike", "people riding a bike"),
        ("arrow pointing right", "arrows pointing right"), ("engagement ring", "engagement rings"),
        ("washing machine", "washing machines"), ("office building", "office buildings"),
        ("jack-o'-lantern", "jack-o'-lanterns"), ("T-shirt", "T-shirts"),
        ("glass of milk", "glasses of milk"), ("city at night", "cities at night"),
    ],
)  # fmt: skip
def test_plurals(name: str, plural: str) -> None:
    assert plural_of(name) == plural


@pytest.mark.parametrize(
    ("key", "name", "colour", "expected"),
    [
        ("car", "car", "red", "a red car"),
        ("apple", "apple", None, "an apple"),
        ("apple", "apple", "orange", "an orange apple"),
        ("umbrella", "umbrella", None, "an umbrella"),
        ("umbrella", "umbrella", "blue", "a blue umbrella"),
        ("bread", "bread", None, "bread"),
        ("bread", "loaf of bread", None, "a loaf of bread"),
        ("french-fries", "French fries", None, "French fries"),
        ("rain", "rain", None, "rain"),
        ("scissors", "scissors", None, "a pair of scissors"),
        ("scissors", "scissors", "green", "a pair of green scissors"),
        ("socks", "sock", None, "a sock"),
        ("sun", "sun", None, "the sun"),
        ("sun", "sun", "purple", "a purple sun"),
        ("eiffel-tower", "Eiffel Tower", None, "the Eiffel Tower"),
        ("santa-claus", "Santa Claus", None, "Santa Claus"),
        ("unicorn", "unicorn", "orange", "an orange unicorn"),
        ("hourglass", "hourglass", None, "an hourglass"),
        ("cat", "猫", None, "一只猫"),
        ("cat", "小猫", "red", "一只红色的小猫"),
        ("car", "汽车", "green", "一辆绿色的汽车"),
        ("bread", "面包", None, "一个面包"),
        ("rice", "米饭", None, "一碗米饭"),
        ("coffee", "咖啡", None, "一杯咖啡"),
        ("scissors", "剪刀", None, "一把剪刀"),
        ("socks", "袜子", "blue", "一双蓝色的袜子"),
        ("glasses", "眼镜", None, "一副眼镜"),
        ("flower", "花", "yellow", "一朵黄色的花"),
        ("rocket", "火箭", None, "一枚火箭"),
        ("rocket", "宇宙飞船", None, "一艘宇宙飞船"),
        ("sun-behind-a-cloud", "多云", None, "多云"),
        ("rain", "雨", None, "一场雨"),
        ("rain", "下雨", None, "下雨"),
        ("happy-face", "笑脸", None, "一张笑脸"),
    ],
)
def test_one_thing(key: str, name: str, colour: str | None, expected: str) -> None:
    assert one(THINGS[key], name, colour) == expected


@pytest.mark.parametrize(
    ("key", "n", "name", "colour", "expected"),
    [
        ("car", 3, "car", None, "three cars"),
        ("car", 3, "汽车", None, "三辆汽车"),
        ("cat", 2, "猫", None, "两只猫"),
        ("cat", 10, "猫", "black", "十只黑色的猫"),
        ("scissors", 2, "scissors", None, "two pairs of scissors"),
        ("scissors", 2, "剪刀", None, "两把剪刀"),
        ("mouse", 4, "mouse", "gray", "four gray mice"),
        ("sheep", 5, "sheep", None, "five sheep"),
        ("pizza", 2, "slice of pizza", None, "two slices of pizza"),
        ("bow-and-arrow", 2, "bow and arrow", None, "two bows and arrows"),
        ("person", 6, "person", None, "six people"),
        ("dice", 2, "dice", None, "two dice"),
        ("bread", 2, "loaf of bread", None, "two loaves of bread"),
        ("bread", 2, "面包", None, "两个面包"),
    ],
)
def test_many_things(key: str, n: int, name: str, colour: str | None, expected: str) -> None:
    assert many(THINGS[key], n, name, colour) == expected


@pytest.mark.parametrize(
    ("key", "name"), [("bread", "bread"), ("santa-claus", "Santa"), ("rain", "下雨"), ("happy-face", "微笑")]
)
def test_what_cannot_be_counted_is_refused(key: str, name: str) -> None:
    assert not THINGS[key].countable(name)
    with pytest.raises(ValueError, match="cannot be counted"):
        many(THINGS[key], 2, name)


def test_unknown_names_colours_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="has no name 'dog'"):
        one(THINGS["cat"], "dog")
    with pytest.raises(ValueError, match="no colour 'reddish'"):
        one(THINGS["cat"], "猫", "reddish")
    for n in (1, 11):
        with pytest.raises(ValueError, match="between 2 and 10"):
            many(THINGS["cat"], n, "cat")


def test_every_name_makes_a_plain_phrase() -> None:
    for thing in THINGS.values():
        for name in (*thing.en, *thing.zh):
            phrases = [one(thing, name), one(thing, name, "red")]
            phrases += [many(thing, 2, name)] if thing.countable(name) else []
            for phrase in phrases:
                assert not re.search(r"  |\b(an?|the) (an?|the)\b|二", phrase), phrase


def test_names_that_say_a_colour_can_be_left_out() -> None:
    assert "red lantern" in THINGS["lantern"].names("en")
    assert THINGS["lantern"].names("zh", colourless=True) == ("灯笼", "纸灯笼")
    assert THINGS["tomato"].names("zh", colourless=True)[0] == "西红柿"
    for thing in THINGS.values():
        assert not any(" red " in f" {name} " for name in thing.names("en", colourless=True)[1:])


# ---------------------------------------------------------------------------------------------- the loader


GOOD = {
    "car": {"en": ["car"], "zh": ["汽车"], "measure": "辆", "group": "vehicle", "emoji": ["1F697"]},
    "lamp": {
        "en": ["lamp"], "zh": ["灯"], "measure": "盏", "group": "household", "house": "icon-park/lamp",
        "icons": {"game-icons": ["desk-lamp"]}, "aspects": [{"en": "yellow", "zh": "黄色"}],
    },
}  # fmt: skip


def loaded(folder: Path, changes: dict[str, object], key: str = "car") -> dict[str, Thing]:
    """The good list with some fields of one entry replaced (None: taken away)."""
    entries = {name: dict(entry) for name, entry in GOOD.items()}
    entries[key] |= changes
    entries[key] = {name: value for name, value in entries[key].items() if value is not None}
    path = folder / "things.yaml"
    path.write_text(yaml.safe_dump(entries, allow_unicode=True), "utf-8")
    return load_things(path)


def test_a_list_is_read(tmp_path: Path) -> None:
    car, lamp = loaded(tmp_path, {"plural": "cars", "mass": ["car"]}).values()
    assert car.house_drawing == ("noto", "1F697")
    assert (car.mirror, car.recolour, car.mass) == (True, True, {"car"})
    assert lamp.house_drawing == ("icon-park", "lamp")
    assert [(words.en, words.zh) for words in lamp.aspects] == [("yellow", "黄色")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "car: unknown fields: colour"),
        ({"measure": None}, "car: lacks measure"),
        ({"en": "car"}, "car: en must be a list"),
        ({"en": ["auto", "car"]}, "car: the key must be 'auto'"),
        ({"en": ["car", "Lamp"]}, "lamp: the name 'lamp' belongs to 'car'"),
        ({"zh": ["灯"]}, "lamp: the name '灯' belongs to 'car'"),
        ({"zh": ["car"]}, "car: 'car' is no Chinese"),
        ({"group": "things"}, "car: no group 'things'"),
        ({"emoji": [2615]}, "car: emoji: put 2615 into quotes"),
        ({"emoji": ["1f697"]}, "car: '1f697' is no code point"),
        ({"emoji": ["2708-FE0F"]}, "car: leave FE0F out"),
        ({"emoji": None}, "car: needs an emoji, or a house"),
        ({"house": "icon-park"}, "car: no such house: icon-park"),
        ({"house": "icon-park/lamp"}, "icon-park/lamp is also a drawing of 'car'"),
        ({"icons": {"icon-parc": ["car"]}}, "car: no picture set 'icon-parc'"),
        ({"icons": ["car"]}, "car: icons must be a mapping"),
        ({"icons": {"game-icons": ["desk-lamp"]}}, "lamp: game-icons/desk-lamp is also a drawing of 'car'"),
        ({"mass": ["cars"]}, "car: mass: not among the names: cars"),
        ({"unit": "dozen"}, "car: unit 'dozen'"),
        ({"article": "a"}, "car: article 'a'"),
        ({"paint": "crimson"}, "car: no colour 'crimson'"),
        ({"mirror": "no"}, "car: mirror must be true or false"),
        ({"measures": {"车": "辆"}}, "car: measures: a name is not among the Chinese ones"),
        ({"not_in": {"1F697": ["noto"]}}, "car: noto does not show 1F697"),
        ({"not_in": {"1F698": ["noto"]}}, "car: not_in: 1F698 is not among its emoji"),
        ({"aspects": [{"en": "red"}]}, "car: the aspect"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ThingsError, match=re.escape(message)):
        loaded(tmp_path, changes)


def test_an_entry_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "things.yaml"
    path.write_text("car: {}\nlamp: {}\ncar: {}\n", "utf-8")
    with pytest.raises(ThingsError, match="'car' comes twice, again in line 3"):
        load_things(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{en: abacus, zh: 算盘}", "needs en, zh and emoji"),
        ("{en: abacus, zh: 算盘, emoji: 1F697}", "1F697 shows an everyday thing"),
        ("{en: Car, zh: 算盘, emoji: 1F9EE}", "has the name of an everyday thing"),
        ("{en: abacus, zh: 算盘, emoji: abacus}", "'abacus' is no code point"),
    ],
)
def test_a_wrong_withheld_emoji_is_named(tmp_path: Path, entry: str, message: str) -> None:
    path = tmp_path / "rare.yaml"
    path.write_text(f"abacus: {entry}\n", "utf-8")
    with pytest.raises(ThingsError, match=message):
        load_rare(path, loaded(tmp_path, {}))
