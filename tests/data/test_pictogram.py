"""The corpus builder of examples/pictogram, on miniature packages in the real formats."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import corpus  # noqa: E402
from sources import avatars, drawing, emoji, flags, icons, packages, wording  # noqa: E402

sys.path.remove(str(ROOT))


WORDS = avatars.yaml.safe_load(avatars.WORDS.read_text("utf-8"))


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), "utf-8")


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


def test_fractions_are_the_start_of_a_sha1() -> None:
    digest = hashlib.sha1(b"concept\x001F34E").hexdigest()
    assert drawing.fraction("concept", "1F34E") == int(digest[:12], 16) / 2**48


def make_icons(root: Path) -> None:
    body = '<path fill="#2F88FF" d="M0 0h48v48H0z"/>'
    names = {"banana": body, "an-apple": body, "line-two": "<path/>", "brand": body}
    bodies = {name: {"body": body} for name, body in names.items()}
    dump(root / "icon-park" / "icons.json", {"width": 48, "height": 48, "icons": bodies})
    titles = {
        "banana": ("香蕉", "Foods"),
        "an-apple": ("果", "Foods"),
        "line-two": ("线2", "Edit"),
        "brand": ("某", "Brand"),
    }
    entries = [
        {"name": name, "title": title, "category": category, "categoryCN": "类", "tag": [" 标签 ", ""]}
        for name, (title, category) in titles.items()
    ]
    dump(root / "icon-park-svg" / "icons.json", entries)


def test_icons_are_recoloured_and_named_in_both_languages(tmp_path: Path) -> None:
    make_icons(tmp_path)
    drawings = {item.key: item for item in icons.icon_drawings(tmp_path)}
    assert len(drawings) == 4 + 4 + 1
    blue = drawings["icon/banana/blue"]
    assert (blue.caption.en, blue.caption.zh) == ("blue banana", "蓝色的香蕉")
    assert drawings["icon/an-apple/blue"].caption == drawing.Words("blue apple", "蓝色果")
    assert drawings["icon/line-two/line"].caption == drawing.Words("line", "线")
    assert blue.zh_keywords == ["香蕉", "标签"]
    assert not any("brand" in key for key in drawings)


def test_a_recoloured_icon_has_that_colour(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    make_icons(tmp_path)
    for item in icons.icon_drawings(tmp_path):
        if item.key.startswith("icon/banana/"):
            paint = icons.PAINTS[item.meta["color"]].lstrip("#")
            expected = tuple(int(paint[place : place + 2], 16) for place in (0, 2, 4))
            assert corpus.SIZE == 144
            assert item.draw().getpixel((72, 72)) == expected


def test_flags_need_a_name_in_both_languages(tmp_path: Path) -> None:
    dump(
        tmp_path / "circle-flags" / "icons.json",
        {"icons": {"jp": {"body": ""}, "xx": {"body": ""}, "jp-13": {"body": ""}}},
    )
    for locale, name in (("en", "Japan"), ("zh", "日本")):
        names = {"localeDisplayNames": {"territories": {"JP": name}}}
        dump(tmp_path / "cldr-names" / "main" / locale / "territories.json", {"main": {locale: names}})
    (flag,) = flags.flag_drawings(tmp_path)
    assert (flag.caption.en, flag.caption.zh) == ("flag of Japan", "日本的旗帜")
    assert flag.concept == "-".join(f"{ord(character):X}" for character in "🇯🇵")


def test_code_points_lose_their_variation_selector() -> None:
    assert emoji.normal("2764_fe0f-200d-1f525") == "2764-200D-1F525"


def test_every_avatar_style_has_words_and_an_opening() -> None:
    assert set(WORDS) == set(avatars.OPENINGS) == set(packages.avatar_styles())
    for style in WORDS.values():
        assert set(style["order"]) <= set(style["parts"])
        for part in style["parts"].values():
            assert all(pair is None or len(pair) == 2 for pair in part.values())


def said(words: drawing.Words) -> set[str]:
    return set(re.findall(r"[\w-]+", words.en)) - {"a", "an", "and", "on", "with", "against", "under"}


def test_other_wordings_say_nothing_that_is_not_so() -> None:
    """Each word of an avatar's other caption is in the first one or in another name of its style."""
    pytest.importorskip("dicebear")
    for style, words in WORDS.items():
        names = {word for name in words["also"][0] for word in name.split()}
        shorter = 0
        for item in avatars.style_drawings(style, words, 40):
            (other,) = item.wordings
            assert said(other) <= said(item.caption) | names, (item.caption.en, other.en)
            assert "  " not in other.en and not re.search(r"的的|，，|^，|，$", other.zh), other
            assert {colour for colour in drawing.COLOURS.values() if colour in other.zh} <= {
                colour for colour in drawing.COLOURS.values() if colour in item.caption.zh
            }
            shorter += len(other.en) < len(item.caption.en)
        assert shorter > (0 if style in ("landscape", "planets") else 10)
        again = next(iter(avatars.style_drawings(style, words, 1)))
        assert again.wordings == next(iter(avatars.style_drawings(style, words, 1))).wordings


@pytest.mark.parametrize(
    ("name", "group", "sub", "first"),
    [
        (("cat face", "猫脸"), "animals-nature", "animal-mammal", ("a cat", "一只猫")),
        (("man crying", "男生泪脸"), "people-body", "person-gesture", ("a man crying", "一个男生泪脸")),
        (("owl, dark skin tone", "枭，较深肤色"), "animals-nature", "animal-bird", ("an owl", "一只枭")),
        (("grapes", "葡萄"), "food-drink", "food-fruit", ("grapes", "一个葡萄")),
        (("OK button", "OK按钮"), "symbols", "alphanum", ("OK button", "OK按钮")),
    ],
)
def test_an_emoji_is_named_as_people_would(
    name: tuple[str, str], group: str, sub: str, first: tuple[str, str]
) -> None:
    short, longer = wording.emoji_wordings("emoji/x/1", drawing.Words(*name), group, sub)
    assert short == drawing.Words(*first)
    assert first[0].removeprefix("a ").removeprefix("an ") in longer.en


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
    pytest.importorskip("dicebear")
    pytest.importorskip("dicebear_styles")
    for item in avatars.style_drawings(style, WORDS[style], 5):
        for part, value in item.meta.items():
            pair = WORDS[style]["parts"].get(part, {}).get(value) or [value, drawing.COLOURS.get(value, "")]
            assert drawing.without_article(pair[0]) in item.caption.en, (item.key, part)
            assert pair[1] in item.caption.zh, (item.key, part)


def test_finish_drops_test_pictures_that_are_in_train(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    one = {"sha1": ["a", "b", "c"], "split": ["train", "test_comp", "train"], "key": ["1", "2", "3"]}
    two = {"sha1": ["a", "b", "a"], "split": ["val", "test_comp", "train"], "key": ["4", "5", "6"]}
    for name, rows in (("x", one), ("y", two)):
        parquet.write_table(arrow.table(rows), tmp_path / f"{name}.parquet")
    corpus.finish(tmp_path)
    splits = [
        row["split"] for name in "xy" for row in parquet.read_table(tmp_path / f"{name}.parquet").to_pylist()
    ]
    assert splits == ["train", "test_comp", "train", "drop", "test_comp", "train"]


def test_attributions_replace_their_own_section_only(tmp_path: Path) -> None:
    pytest.importorskip("dicebear_styles")
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
