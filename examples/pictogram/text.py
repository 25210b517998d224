"""Train pictogram's text tokenizer on the captions of the corpus's training rows.

python examples/pictogram/text.py --work corpus --out work/text.model

Captions are made of a few hundred phrases that recur thousands of times. Trained on them as they are,
SentencePiece learns whole phrases ("a blue", "wearing an orange") as pieces, and a model that never saw the
phrase cannot compose it. So texts are cut at commas, particles and colours, each fragment counts with the
square root of how often it occurs, and the Chinese words of the avatars stay whole. Common words of both
languages that no caption has are learned as well (``sources/word_lists.py``), for captions of your own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from corpus import open_rows
from rows_source import RowsSource, captions_of
from scenes_source import ScenesSource, open_scenes
from sources.avatars import avatar_phrases
from sources.drawing import COLOURS
from sources.scenes import COUNT
from sources.word_lists import common_words
from things import load_things

from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer

COMMON = ("的", "里", "着", "一个", "一颗", "穿", "戴", "发", "背景", "风格", ",", "、", *COLOURS.values())
PHRASES = ("flat style", "three-dimensional style", "icon style", "background", "on a", "with", "wearing a")
MEASURES = "".join(sorted({thing.measure for thing in load_things().values() if len(thing.measure) == 1}))
CUTS = re.compile(
    rf"[，,、。；;：:（）()·]|的|里|着|([一两三四][{MEASURES}])|[穿戴发]|([红橙黄绿青蓝紫粉棕黑白灰]色)|(背景|风格)"
)
HAN = re.compile("[\u4e00-\u9fff]")


def captions(source: RowsSource, scenes: ScenesSource) -> Iterator[str]:
    """Every caption of the training rows and scenes."""
    for row in source.rows:
        if row.split == "train":
            yield from (caption.text for caption in captions_of(source.sprites[row.sprite], row))
    for scene in scenes.composer.scenes(len(scenes)):
        if scene.split == "train":
            yield from (caption.text for caption in scenes.captions(scene))


def fragments(text: str) -> list[str]:
    """Chinese cut at particles, measure words and colours, English at commas and brackets."""
    parts = CUTS.split(text) if HAN.search(text) else re.split(r"[,()]\s*", text)
    return [part.strip() for part in parts if part and part.strip()]


def whole_words() -> list[str]:
    """Chinese words of the avatars, up to six characters, and colours: each stays one piece."""
    words = {*COLOURS.values(), "背景", "风格", "的", "天空", "颜色"}
    for phrase in avatar_phrases():
        words |= set(re.split("[，、的着]", phrase.zh))
    return sorted(word for word in words if 1 <= len(word) <= 6)


def training_texts(source: RowsSource, scenes: ScenesSource, packages: Path) -> Iterator[str]:
    """Each fragment as often as the square root of its count, at most 30 times; common words more."""
    yield from common_words(packages)
    counts = Counter(part for text in captions(source, scenes) for part in fragments(text))
    for part, count in counts.items():
        yield from [part] * min(30, round(count**0.5))
    yield from COMMON * 100
    yield from PHRASES * 200


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("packages"))
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where the tables of rows lie")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=8000)
    parser.add_argument("--limit", type=int, help="about so many rows, for a trial")
    return parser.parse_args()


def main() -> None:
    """Train and save the tokenizer."""
    given = arguments()
    rows = open_rows(given.packages, given.work, limit=given.limit)
    count = COUNT if given.limit is None else given.limit // 3
    tokenizer = TextTokenizer.train(
        training_texts(rows, open_scenes(given.packages, given.work, count), given.packages),
        pieces=given.pieces,
        user_defined=whole_words(),
    )
    tokenizer.save(given.out)
    print(f"{given.out}: {tokenizer.pieces} pieces, fingerprint {tokenizer.fingerprint[:16]}")


if __name__ == "__main__":
    try:
        main()
    except (CogViewError, FileNotFoundError) as error:
        sys.exit(f"text.py: {error}")
