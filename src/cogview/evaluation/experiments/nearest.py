"""The trivial drawer: for every prompt the training image whose caption shares most words with it.

What a model has to beat. Captions and prompts are compared by the cosine of their tokens' weights tf * idf, a
rule that knows neither images nor any network that judges them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview._moved import renamed
from cogview.data.images import BadImage, decode
from cogview.data.sources import Record, open_source
from cogview.errors import CogViewError
from cogview.evaluation.judges.captioned import texts_of
from cogview.evaluation.sample_store import Sampling
from cogview.tokenizers.text import TextTokenizer

NAME = "nearest-training"


class RetrievalBaseline:
    """A drawer (``attributes.ImageGenerator``) over the captioned images of one split of ``data``.

    Raises:
        CogViewError: no image of that split.
    """

    name = NAME
    precision: Literal["fp32"] = "fp32"

    def __init__(
        self, data: Path, text: TextTokenizer, split: str = "train", source: str | None = None
    ) -> None:
        self.text = text
        found = open_source(data)
        self._print = f"{found.fingerprint()} {split} {source} {text.fingerprint}"
        kept = (r for r in found.records() if r.split == split and source in (None, r.source) and r.captions)
        self.records: list[Record] = list(kept)
        if not self.records:
            raise CogViewError(f"{data}: no captioned picture of split {split!r} to choose from")
        pairs = [(i, text) for i, record in enumerate(self.records) for text, _ in texts_of(record, True)]
        self.owners = np.array([i for i, _ in pairs])
        self._index([text for _, text in pairs])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the images to choose from."""
        return hashlib.sha256(self._print.encode()).hexdigest()[:16]

    def _index(self, texts: Sequence[str]) -> None:
        """An inverted index: for every piece the texts that have it and with which weight."""
        bags = [Counter(self.text.encode(text)) for text in texts]
        spread = Counter(piece for bag in bags for piece in bag)
        self.rarity = {piece: math.log(1 + len(bags) / count) for piece, count in spread.items()}
        found: dict[int, tuple[list[int], list[float]]] = {piece: ([], []) for piece in spread}
        for i, bag in enumerate(bags):
            for piece, weight in self._weights(bag).items():
                found[piece][0].append(i)
                found[piece][1].append(weight)
        self.index = {piece: (np.array(rows), np.array(own)) for piece, (rows, own) in found.items()}
        self.count = len(bags)

    def _weights(self, bag: Counter[int]) -> dict[int, float]:
        raw = {piece: count * self.rarity[piece] for piece, count in bag.items() if piece in self.rarity}
        length = math.sqrt(sum(weight**2 for weight in raw.values())) or 1.0
        return {piece: weight / length for piece, weight in raw.items()}

    def nearest(self, prompt: str) -> int:
        """The number of the record whose caption is nearest, the first of equals."""
        scores: NDArray[np.float64] = np.zeros(self.count)
        for piece, weight in self._weights(Counter(self.text.encode(prompt))).items():
            rows, own = self.index[piece]
            scores[rows] += weight * own
        return int(self.owners[int(np.argmax(scores))])

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """The nearest training image of each prompt; neither seed nor settings matter."""
        return [self._picture(self.records[self.nearest(prompt)]) for prompt in prompts]

    def _picture(self, record: Record) -> Image.Image:
        try:
            return decode(record.image or b"").image
        except BadImage as error:
            raise CogViewError(f"{record.place}: the picture is broken: {error}; take it out") from None


__getattr__ = renamed(__name__, NearestTraining="RetrievalBaseline")
