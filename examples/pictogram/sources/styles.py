"""The art styles: their words in both languages, their licence, and which are kept out of training.

A style is one look: a set of drawings, or part of one (``streamline-color`` holds drawings of violet lines
and, as ``streamline-color-flat``, the same things as blue shapes).
"""

from __future__ import annotations

from dataclasses import dataclass

from sources.drawing import Words

HOUSE = "noto"  # the style that a bare name means
PERMISSIVE = frozenset(
    (
        "MIT", "Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC BY 4.0", "CC0", "CC0 1.0",
        "public domain", "Unicode-3.0",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """A drawing style: its words and its licence; ``withheld`` styles are in no training part."""

    words: Words
    licence: str
    withheld: bool = False


def _style(en: str, zh: str, licence: str, withheld: bool = False) -> Style:
    return Style(Words(en, zh), licence, withheld)


STYLES = {
    "noto": _style("Noto cartoon", "谷歌卡通", "Apache-2.0"),
    "noto-v1": _style("blob", "小团子", "Apache-2.0", withheld=True),
    "twemoji": _style("Twitter flat", "推特扁平", "CC-BY-4.0"),
    "fluent-emoji": _style("glossy gradient", "渐变光泽", "MIT"),
    "fluent-emoji-flat": _style("flat", "扁平", "MIT"),
    "fluent-emoji-high-contrast": _style("black and white", "黑白", "MIT"),
    "fluent-3d": _style("3D", "三维立体", "MIT"),
    "emojione": _style("EmojiOne", "圆润卡通", "CC-BY-4.0"),
    "fxemoji": _style("Firefox", "火狐", "Apache-2.0"),
    "streamline-emojis": _style("outlined", "描边", "CC-BY-4.0"),
    "icon-park": _style("icon", "图标", "Apache-2.0"),
    "game-icons": _style("silhouette", "剪影", "CC-BY-3.0"),
    "streamline-color": _style("violet line icon", "紫线图标", "CC-BY-4.0"),
    "streamline-color-flat": _style("blue shape icon", "蓝色块图标", "CC-BY-4.0"),
    "streamline-plump-color": _style("plump line icon", "圆胖线图标", "CC-BY-4.0"),
    "streamline-plump-color-flat": _style("plump shape icon", "圆胖色块图标", "CC-BY-4.0"),
    "streamline-flex-color": _style("curvy line icon", "曲线图标", "CC-BY-4.0"),
    "streamline-flex-color-flat": _style("curvy shape icon", "曲边色块图标", "CC-BY-4.0"),
    "streamline-sharp-color": _style("angular line icon", "直角线图标", "CC-BY-4.0"),
    "streamline-sharp-color-flat": _style("angular shape icon", "直角色块图标", "CC-BY-4.0"),
    "streamline-ultimate-color": _style("coloured outline icon", "彩色勾线图标", "CC-BY-4.0"),
    "streamline-freehand-color": _style("freehand", "随手画", "CC-BY-4.0", withheld=True),
    "streamline-cyber-color": _style("cyber", "赛博", "CC-BY-4.0"),
    "streamline-kameleon-color": _style("round badge", "圆形徽章", "CC-BY-4.0", withheld=True),
    "streamline-kameleon-color-duo": _style("blue badge", "蓝色徽章", "CC-BY-4.0", withheld=True),
    "streamline-stickies-color": _style("bright sticker", "彩色贴纸", "CC-BY-4.0"),
    "streamline-stickies-color-duo": _style("lime sticker", "荧光绿贴纸", "CC-BY-4.0"),
    "flat-color-icons": _style("office icon", "办公图标", "MIT"),
    "meteocons": _style("weather icon", "天气图标", "MIT"),
    "meteocons-line": _style("weather line icon", "天气线图标", "MIT"),
    "fluent-color": _style("gradient icon", "渐变图标", "MIT"),
    "circle-flags": _style("round", "圆形", "MIT"),
    "openclipart": _style("clip art", "剪贴画", "public domain"),
}
