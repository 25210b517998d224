"""The packages that the pictogram corpus is drawn from, with a few drawings each, in their real formats."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

EMOJI = {
    # code point: (slug, English, Chinese, group, subgroup, colour of the drawing)
    "1F408": ("cat", "cat", "猫", 3, 31, "#f2a33a"),
    "1F431": ("cat-face", "cat face", "猫脸", 3, 31, "#f5c13a"),
    "1F34E": ("red-apple", "red apple", "红苹果", 4, 41, "#d32f2f"),
    "1F697": ("automobile", "automobile", "汽车", 5, 51, "#e53935"),
    "1F34C": ("banana", "banana", "香蕉", 4, 41, "#fdd835"),
    "1F467": ("girl", "girl", "女孩", 1, 11, "#fdd835"),
    "1F535": ("blue-circle", "blue circle", "蓝色圆", 8, 81, "#1e88e5"),
}
GROUPS = {1: "people-body", 3: "animals-nature", 4: "food-drink", 5: "travel-places", 8: "symbols"}
SUBGROUPS = {11: "person", 31: "animal-mammal", 41: "food-fruit", 51: "transport-ground", 81: "geometric"}
EMOJI_SETS = (
    "noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast",
    "emojione", "fxemoji", "streamline-emojis",
)  # fmt: skip
STREAMLINE = ("", "plump-", "flex-", "sharp-", "ultimate-", "freehand-", "cyber-", "kameleon-", "stickies-")
THINGS = """
cat: {en: [cat, kitty], zh: [猫, 小猫], measure: 只, group: animal, emoji: [1F408, 1F431],
  icons: {streamline-color: [cat]}, aspects: [{en: orange, zh: 橙色}, {en: a dot, zh: 一个圆点}]}
apple: {en: [apple], zh: [苹果], measure: 个, group: fruit, emoji: [1F34E]}
car: {en: [car, automobile], zh: [汽车, 轿车], measure: 辆, group: vehicle, emoji: [1F697], mirror: false}
girl: {en: [girl], zh: [女孩], measure: 个, group: person, emoji: [1F467]}
wolf: {en: [wolf], zh: [狼], measure: 只, group: animal, house: game-icons/wolf-head, paint: gray}
"""


def dump(path: Path, data: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")


def drawing(colour: str, shift: int = 0) -> str:
    """An icon's body: a disc in a colour with a black dot; ``shift`` tells sets apart."""
    return (
        f'<circle cx="64" cy="64" r="{50 - shift}" fill="{colour}"/>'
        f'<circle cx="{50 + shift}" cy="50" r="6" fill="#000"/>'
    )


def icon_set(folder: Path, bodies: dict[str, str], side: int = 128) -> None:
    """An Iconify set."""
    icons = {name: {"body": body} for name, body in bodies.items()}
    dump(folder / "icons.json", {"width": side, "height": side, "icons": icons})


def make_packages(root: Path) -> Path:
    """All packages; returns ``root``."""
    _names(root)
    for place, name in enumerate(EMOJI_SETS):
        icon_set(root / name, {slug: drawing(colour, place) for slug, _, _, _, _, colour in EMOJI.values()})
        dump(root / name / "chars.json", {code.lower(): entry[0] for code, entry in EMOJI.items()})
    assets = root / "fluent-3d" / "assets"
    assets.mkdir(parents=True)
    for code, entry in EMOJI.items():
        image = Image.new("RGBA", (64, 64))
        image.paste(Image.new("RGB", (44, 44), entry[5]), (10, 10))
        image.save(assets / f"{code.lower()}.webp", lossless=True)
    _icons(root)
    return root


def _names(root: Path) -> None:
    for place, locale in ((1, "en"), (2, "zh")):
        said = {chr(int(code, 16)): {"tts": [entry[place]], "default": []} for code, entry in EMOJI.items()}
        dump(root / "cldr-annotations/annotations" / locale / "annotations.json",
             {"annotations": {"annotations": said}})  # fmt: skip
        dump(root / "cldr-derived/annotationsDerived" / locale / "annotations.json",
             {"annotationsDerived": {"annotations": {}}})  # fmt: skip
        data = [
            {"hexcode": code, "label": entry[place], "group": entry[3], "subgroup": entry[4]}
            for code, entry in EMOJI.items()
        ]
        dump(root / "emojibase" / locale / "data.json", data)
        names = {"localeDisplayNames": {"territories": {"JP": ("Japan", "日本")[place - 1]}}}
        dump(root / "cldr-names/main" / locale / "territories.json", {"main": {locale: names}})
    messages = {
        "groups": [{"order": order, "key": key} for order, key in GROUPS.items()],
        "subgroups": [{"order": order, "key": key} for order, key in SUBGROUPS.items()],
    }
    dump(root / "emojibase/en/messages.json", messages)
    for name in ("iamcal", "emojibase"):
        dump(root / "emojibase/en/shortcodes" / f"{name}.json", {})


def _icons(root: Path) -> None:
    fill = drawing("#2F88FF")
    icon_set(
        root / "icon-park", {"banana": fill, "an-apple": fill, "line-two": drawing("#000"), "brand": fill}
    )
    titles = {
        "banana": ("香蕉", "Foods"),
        "an-apple": ("果", "Foods"),
        "line-two": ("线2", "Edit"),
        "brand": ("某", "Brand"),
    }
    entries = [
        {"name": name, "title": title, "category": category, "categoryCN": "类", "tag": []}
        for name, (title, category) in titles.items()
    ]
    dump(root / "icon-park-svg" / "icons.json", entries)
    for place, name in enumerate(STREAMLINE):
        bodies = {
            "cat": drawing("#4147d5", place),
            "cat-flat": drawing("#8fbffa", place),
            "xyzzy-add": drawing("#00f"),
        }
        icon_set(root / f"streamline-{name}color", bodies)
    wolf = '<path fill="currentColor" d="M20 20h88v88H20z"/>'
    icon_set(root / "game-icons", {"wolf-head": wolf, "wooden-fence": wolf, "xyzzy": wolf})
    icon_set(root / "flat-color-icons", {"camera": drawing("#5e35b1")})
    icon_set(
        root / "meteocons", {"rain": drawing("#90a4ae"), "rain-fill": drawing("#607d8b"), "blank": "<g/>"}
    )
    icon_set(root / "fluent-color", {"add-16": drawing("#0af")})
    icon_set(
        root / "circle-flags", {"jp": drawing("#bc002d"), "xx": drawing("#123456"), "jp-13": drawing("#fff")}
    )
    clip = root / "openclipart-svg/usr/share/openclipart/svg/animals"
    clip.mkdir(parents=True)
    box = 'xmlns="http://www.w3.org/2000/svg" width="90pt" height="40pt" viewBox="0 0 90 40"'
    (clip / "fish_someone_01.svg").write_text(f'<svg {box}><rect width="90" height="40" fill="red"/></svg>')
