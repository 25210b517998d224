"""Generates other wordings of a caption, as users type prompts.

A model that was trained on each caption in one wording only ("red apple") does not recognise another ("a red
apple"): every unseen token moves it away from its training data. These functions vary wording without
changing the meaning, by rules that need no dictionary: articles and measure words, the order of the parts
after the first, omitted parts, a frame ("an image of …"). They add no content.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

from cogview.data.samples import Caption
from cogview.data.sources.record import Record, Source, digest
from cogview.tokenizers.language_classes import is_chinese

ARTICLE = re.compile(r"^(a|an|the|one|some)\s+", re.IGNORECASE)
VOWEL_SOUND = re.compile(r"hour|honest|heir|(?!uni(?!n)|us[ea]|eu|one\b|once\b)[aeiou]", re.IGNORECASE)
PLURAL = re.compile(
    r"\b(\w+[^su\W]s|men|women|people|children|feet|teeth|two|three|four|many)\b", re.IGNORECASE
)
MEASURE = re.compile("^一[只个辆条朵棵把张件座匹头本杯块片架艘顶双副位幅碗盘颗台支根间栋群]")
FRAMES_EN = ("a picture of {}", "an image of {}", "a drawing of {}", "{} picture", "draw {}", "{} image")
FRAMES_ZH = ("{}的图片", "一张{}的图片", "画{}", "{}的图", "一幅{}的画", "{}图片")
FRAMED = 0.25  # probability of a frame


def wordings(text: str, language: str, count: int, seed: int = 0) -> list[str]:
    """Up to ``count`` distinct other wordings of a caption; a function of text and seed.

    Args:
        text: one caption.
        language: "zh", "en" or "" (Chinese if it has a Chinese character). In captions of other languages
            only parts are omitted or reordered.
        count: number of wordings; short captions may have fewer.
        seed: of the random choices.
    """
    rng = random.Random(f"{seed}:{text}")
    chinese = language.startswith("zh") or (not language and is_chinese(text))
    vary = _vary_zh if chinese else _vary_en if language in ("", "en") else _vary_parts
    found: dict[str, None] = {}
    for _ in range(4 * count):
        other = vary(text.strip().rstrip(".。"), rng)
        if other and other != text:
            found.setdefault(other)
        if len(found) == count:
            break
    return list(found)


def _vary_en(text: str, rng: random.Random) -> str:
    text = _vary_parts(text, rng)
    bare = ARTICLE.sub("", text)
    first = re.split(r",|\b(?:with|of|on|in)\b", bare, maxsplit=1)[0]
    if bare and not PLURAL.search(first) and first[:1].islower():
        one = ("an " if VOWEL_SOUND.match(bare) else "a ") + bare
        text = rng.choice((bare, one, one, f"the {bare}"))
    if rng.random() < FRAMED:
        text = rng.choice(FRAMES_EN).format(text)
    return text[:1].upper() + text[1:] if rng.random() < 0.15 else text


def _vary_zh(text: str, rng: random.Random) -> str:
    text = _vary_parts(text, rng, "，")
    measured = MEASURE.match(text)
    if measured and rng.random() < 0.5:
        text = text[measured.end() :]
    if "的" in text and rng.random() < 0.3:
        text = re.sub(r"(?<=色)的", "", text)
    if rng.random() < FRAMED:
        text = rng.choice(FRAMES_ZH).format(text)
    return text


def _vary_parts(text: str, rng: random.Random, comma: str = ", ") -> str:
    """Omit some of the parts between commas, and reorder those after the first."""
    first, *others = [part.strip() for part in re.split(r"[,，;；]", text)]
    kept = [part for part in others if part and rng.random() < 0.75]
    if rng.random() < 0.4:
        rng.shuffle(kept)
    return comma.join([first, *kept])


class RewordedSource:
    """A source that adds up to ``count`` other wordings to each plain caption (kind "reworded")."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source and the number of wordings."""
        return digest([self.source.fingerprint(), f"wordings {self.count}"])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        return map(self._reworded, self.source.records(start))

    def _reworded(self, record: Record) -> Record:
        added = [
            Caption(text, caption.language, "reworded")
            for caption in record.captions
            if caption.kind == "plain"
            for text in wordings(caption.text, caption.language, self.count)
        ]
        return replace(record, captions=tuple(dict.fromkeys([*record.captions, *added])))
