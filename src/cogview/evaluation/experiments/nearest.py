"""Retrieval baseline: for every prompt the training image with the most similar caption.

A model should be better than this. Captions and prompts are compared by the cosine of the tf-idf weights of
their tokens, which uses neither images nor any network that judges them.
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
    """An :class:`ImageGenerator` that returns captioned images of one split of ``data``.

    Raises:
        CogViewError: there is no captioned image of that split.
    """

    name = NAME
    precision: Literal["fp32"] = "fp32"

    def __init__(
        self, data: Path, text: TextTokenizer, split: str = "train", source: str | None = None
    ) -> None:
        self.text = text
        opened = open_source(data)
        self._identity = f"{opened.fingerprint()} {split} {source} {text.fingerprint}"
        records = (
            r for r in opened.records() if r.split == split and source in (None, r.source) and r.captions
        )
        self.records: list[Record] = list(records)
        if not self.records:
            raise CogViewError(f"{data}: no captioned image of split {split!r} to choose from")
        pairs = [(i, text) for i, record in enumerate(self.records) for text, _ in texts_of(record, True)]
        self.owners = np.array([i for i, _ in pairs])
        self._index([text for _, text in pairs])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the images and the tokenizer."""
        return hashlib.sha256(self._identity.encode()).hexdigest()[:16]

    def _index(self, texts: Sequence[str]) -> None:
        """Build an inverted index: for every token the texts that contain it, with their weights."""
        bags = [Counter(self.text.encode(text)) for text in texts]
        frequency = Counter(token for bag in bags for token in bag)
        self.idf = {token: math.log(1 + len(bags) / count) for token, count in frequency.items()}
        postings: dict[int, tuple[list[int], list[float]]] = {token: ([], []) for token in frequency}
        for i, bag in enumerate(bags):
            for token, weight in self._weights(bag).items():
                postings[token][0].append(i)
                postings[token][1].append(weight)
        self.index = {token: (np.array(rows), np.array(ws)) for token, (rows, ws) in postings.items()}
        self.count = len(bags)

    def _weights(self, bag: Counter[int]) -> dict[int, float]:
        """The tf-idf weights of a bag of tokens, scaled to unit norm."""
        raw = {token: count * self.idf[token] for token, count in bag.items() if token in self.idf}
        norm = math.sqrt(sum(weight**2 for weight in raw.values())) or 1.0
        return {token: weight / norm for token, weight in raw.items()}

    def nearest(self, prompt: str) -> int:
        """The index of the record with the nearest caption, the first of equals."""
        scores: NDArray[np.float64] = np.zeros(self.count)
        for token, weight in self._weights(Counter(self.text.encode(prompt))).items():
            rows, weights = self.index[token]
            scores[rows] += weight * weights
        return int(self.owners[int(np.argmax(scores))])

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """The nearest training image of each prompt; seed and settings have no effect."""
        return [self._load(self.records[self.nearest(prompt)]) for prompt in prompts]

    def _load(self, record: Record) -> Image.Image:
        try:
            return decode(record.image or b"").image
        except BadImage as error:
            raise CogViewError(f"{record.place}: the image is broken: {error}; remove it") from None


__getattr__ = renamed(__name__, NearestTraining="RetrievalBaseline")
