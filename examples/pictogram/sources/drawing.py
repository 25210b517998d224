"""What the sources share: words in both languages, stable hashes, colour names, SVG to pixels."""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "white": "白色",
    "gray": "灰色",
}


@dataclass(frozen=True)
class Words:
    """The same in English and Chinese."""

    en: str
    zh: str


@dataclass(frozen=True)
class Name(Words):
    """A name in both languages and how it is used: its English article ("a", "the", "a pair of" or none) and
    its Chinese measure word (or none)."""

    article: str = ""
    measure: str = ""

    def one(self, before: Words) -> Words:
        """The thing once, with words before its name: "a red car", "a pair of scissors", 一辆红色的汽车."""
        en, zh = f"{before.en} {self.en}".strip(), f"{before.zh}{self.zh}"
        if self.article == "a" or (self.article == "the" and before.en):
            en = with_article(en)
        elif self.article:
            en = f"{self.article} {en}"
        return Words(en, f"一{self.measure}{zh}" if self.measure else zh)


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: splits never change between builds."""
    digest = hashlib.sha1("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def slug(text: str) -> str:
    """Lower-case ASCII words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("&", "and").replace("'", "")).strip("-")


VOWEL = re.compile(
    r"(?!uni(?!m|n)|use|usu|eu|one\b|once|ufo\b|u-)[aeiou]|hour|honest|heir|x-ray", re.IGNORECASE
)


def with_article(text: str) -> str:
    """The text with "a" or "an" before it, by the sound of its first word."""
    return ("an " if VOWEL.match(text) else "a ") + text


def without_article(text: str) -> str:
    """The text without a leading "a" or "an"."""
    return re.sub(r"^(a |an )", "", text)


def load_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text("utf-8"))


# ---------------------------------------------------------------------------------------------- colours


def colour_name(code: str) -> Words:
    """The name of a colour given as hexadecimal RGB, by hue, lightness and chroma."""
    code = code.lstrip("#")
    red, green, blue = (int(code[place : place + 2], 16) / 255 for place in (0, 2, 4))
    hue, lightness, _ = colorsys.rgb_to_hls(red, green, blue)
    chroma = max(red, green, blue) - min(red, green, blue)
    name = _grey(lightness) if chroma < 0.09 else _hue(hue * 360, lightness, chroma)
    return Words(name, COLOURS[name])


def _grey(lightness: float) -> str:
    if lightness < 0.22:
        return "black"
    return "white" if lightness > 0.88 else "gray"


def _hue(hue: float, lightness: float, chroma: float) -> str:
    if hue < 12 or hue >= 345:
        return _red(lightness, chroma)
    if hue < 42:
        return _orange(lightness, chroma)
    if hue < 70:
        return "yellow" if lightness > 0.35 else "brown"
    for limit, name in ((165, "green"), (195, "cyan"), (252, "blue"), (305, "purple")):
        if hue < limit:
            return name
    return "pink" if lightness > 0.35 else "purple"


def _red(lightness: float, chroma: float) -> str:
    if lightness > 0.68:
        return "pink"
    return "brown" if lightness < 0.25 and chroma < 0.35 else "red"


def _orange(lightness: float, chroma: float) -> str:
    if lightness < 0.42 or (chroma < 0.45 and lightness < 0.7):
        return "brown"
    return "orange" if lightness < 0.8 else "pink"


# ---------------------------------------------------------------------------------------------- pixels


def on_white(image: Image.Image) -> Image.Image:
    """The picture laid over white, RGB."""
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    white.alpha_composite(layers)
    return white.convert("RGB")


def render_svg(svg: str, side: int) -> Image.Image:
    """An SVG rendered ``side`` pixels wide, RGBA (without ``dpi``, lengths in points fail)."""
    import resvg_py

    return Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, dpi=96.0, skip_system_fonts=True)))
    )


def iconify_svg(icons: dict[str, Any], name: str, body: str | None = None, flip: bool = False) -> str:
    """One icon of an Iconify set (``icons.json``) as SVG text, its body replaced or mirrored on request."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    inner = body or icon["body"]
    if flip:
        inner = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{inner}</g>'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
    return f'<svg {spaces} {box} color="#000">{inner}</svg>'
