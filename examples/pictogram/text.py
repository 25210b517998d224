"""Train pictogram's text tokenizer on the corpus's captions, keywords and style phrases.

python examples/pictogram/text.py --corpus corpus --out work/text.model

The captions of avatars are made of a few hundred phrases that recur thousands of times. Trained on them as
they are, SentencePiece learns whole phrases ("a blue", "wearing an orange") as pieces, and a model that never
saw the phrase cannot compose it. So texts are cut at commas, particles and colours, each fragment counts with
the square root of how often it occurs, and the Chinese words of the avatars stay whole.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cogview.tokenizers.text import TextTokenizer

WORDS = Path(__file__).parent / "sources" / "avatar_words.yaml"
COLOURS = tuple(f"{c}色" for c in "红橙黄绿青蓝紫粉棕黑白灰")
COMMON = ("的", "里", "着", "一个", "一颗", "穿", "戴", "发", "背景", "风格", ",", "、", *COLOURS)
PHRASES = ("flat style", "three-dimensional style", "icon style", "background", "on a", "with", "wearing a")
CUTS = re.compile(
    r"[，,、。；;：:（）()·]|的|里|着|一个|一颗|[穿戴发]|([红橙黄绿青蓝紫粉棕黑白灰]色)|(背景|风格)"
)
HAN = re.compile("[\u4e00-\u9fff]")
STYLED = ("emoji", "icon", "flag")


def captions(corpus: Path) -> Iterator[str]:
    """Every text of the training split: captions, captions with the style phrase, keywords."""
    import pyarrow.parquet as parquet

    columns = ["source", "split", "en", "zh", "en_kw", "zh_kw", "style_en", "style_zh", "key"]
    for path in sorted(corpus.glob("*.parquet")):
        for row in parquet.read_table(path, columns=columns).to_pylist():
            if row["split"] == "train":
                yield from _texts(row)


def _texts(row: dict[str, Any]) -> Iterator[str]:
    yield row["en"]
    if row["source"] == "clip":
        return
    yield row["zh"]
    if row["source"] in STYLED:
        yield f"{row['en']}, {row['style_en']} style"
        yield f"{row['zh']}，{row['style_zh']}风格"
    if row["source"] == "icon" or row["key"].startswith("emoji/noto/"):
        yield from (*row["en_kw"], *row["zh_kw"])


def fragments(text: str) -> list[str]:
    """Chinese cut at particles and colours, English at commas and brackets."""
    parts = CUTS.split(text) if HAN.search(text) else re.split(r"[,()]\s*", text)
    return [part.strip() for part in parts if part and part.strip()]


def avatar_words() -> list[str]:
    """Chinese words of the avatars, up to six characters, and colours: each stays one piece."""
    words = {*COLOURS, "背景", "风格", "的", "天空", "颜色"}
    for style in yaml.safe_load(WORDS.read_text(encoding="utf-8")).values():
        words.add(style["name"][1])
        for part in style["parts"].values():
            for pair in part.values():
                words |= set(re.split("[，、的着]", pair[1])) if pair else set()
    return sorted(word for word in words if 1 <= len(word) <= 6)


def training_texts(corpus: Path) -> Iterator[str]:
    """Each fragment as often as the square root of its count, at most 30 times; common words more."""
    counts = Counter(part for text in captions(corpus) for part in fragments(text))
    for part, count in counts.items():
        yield from [part] * min(30, round(count**0.5))
    yield from COMMON * 100
    yield from PHRASES * 200


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=7500)
    given = parser.parse_args()
    tokenizer = TextTokenizer.train(
        training_texts(given.corpus), pieces=given.pieces, user_defined=avatar_words()
    )
    tokenizer.save(given.out)
    print(f"{given.out}: {tokenizer.pieces} pieces, fingerprint {tokenizer.fingerprint[:16]}")


if __name__ == "__main__":
    main()
