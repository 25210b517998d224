"""Captions, caption losses and ranks of images: a caption model's tasks (CogView, section 3.2).

Images are files, Pillow images or what ``generate`` returned, whose codes are then used as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cogview.checkpoints.components import Components
from cogview.errors import CogViewError
from cogview.generation.caption_decoding import Captioner, Draft
from cogview.generation.engine import Engine
from cogview.generation.languages import language as language_of
from cogview.generation.scoring import Scorer
from cogview.pipelines.base import (
    MOST_CAPTIONS,
    AnyImage,
    Caption,
    GeneratedImage,
    Ranked,
    at_least_one,
    checked_seed,
    image_list,
    not_too_many,
    text_list,
)
from cogview.sequences.protocols import CaptionFormat, check_text
from cogview.types import BEAMS, Ids, ProgressCallback, SamplingParams

ReleasedScore = Callable[[Ids, Sequence[int]], float]


class Captioning:
    """The caption model of a family, read at first use.

    Attributes:
        format: its sequences.
        image_codes: an image's codes (rows * columns,) for this model.
    """

    def __init__(
        self,
        components: Components,
        format: CaptionFormat,
        load: Callable[[], Engine],
        encode: Callable[[AnyImage], Ids],
        released: ReleasedScore | None = None,
    ) -> None:
        self.components, self.format, self._load = components, format, load
        self._encode, self._released = encode, released

    @cached_property
    def captioner(self) -> Captioner:
        """The model, ready to write."""
        return Captioner(self._load(), self.format, self.components.text_tokenizer)

    def image_codes(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,); a generated one has them already."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self.format.codes:
            return image.codes
        codes = self._encode(image)
        if len(codes) != self.format.codes:
            raise CogViewError(
                f"the tokenizer gives {len(codes)} codes and the caption model reads {self.format.codes}"
            )
        return codes

    def caption(
        self,
        images: AnyImage | Sequence[AnyImage],
        n: int,
        language: str | None,
        beams: int | None,
        seed: int | None,
        params: SamplingParams | None,
        max_length: int | None,
        batch_size: int | None,
        progress: ProgressCallback | None,
        callback: Callable[[list[Caption]], None] | None,
    ) -> list[list[Caption]]:
        """``n`` captions of each image; see :meth:`cogview.pipelines.model.Pipeline.caption`."""
        items = image_list(images)
        if beams is not None and (seed is not None or params is not None):
            raise CogViewError(
                "beams and a seed or sampling settings exclude each other; give one of them", field="beams"
            )
        at_least_one(n=n, beams=beams, batch_size=batch_size)
        not_too_many("captions", max(n, beams or 1), MOST_CAPTIONS)
        if beams is not None and beams < n:
            raise CogViewError(f"{n} captions need at least {n} beams, not {beams}", field="beams")
        if self.format.languages:
            language = language or "en"
        captioner, config = self.captioner, self.components.bundle.config
        (
            captioner.steps(max_length),
            captioner.prompt(np.zeros(self.format.codes, dtype=np.int64), max_length, language),
        )
        captioner.constraint(language)
        codes = [self.image_codes(item) for item in items]
        if seed is None and params is None:
            found = self._searched(codes, n, beams or max(BEAMS, n), language, max_length, progress)
        else:
            seed = checked_seed(seed)
            wanted = [(image, seed, index) for image in range(len(items)) for index in range(n)]
            drafts = captioner.sample(
                codes, wanted, config.sampling("caption", params), language, max_length, batch_size, progress
            )
            found = _in_groups((_caption(draft, seed, wanted[i][2]) for i, draft in drafts), n)
        made = []
        for own in found:
            made.append(own)
            if callback is not None:
                callback(own)
        return made

    def _searched(
        self,
        codes: Sequence[Ids],
        n: int,
        beams: int,
        language: str | None,
        length: int | None,
        progress: ProgressCallback | None,
    ) -> Iterator[list[Caption]]:
        """The best captions of each image."""
        for done, own in enumerate(codes, 1):
            yield [_caption(draft) for draft in self.captioner.beams(own, n, beams, language, length)]
            if progress is not None:
                progress(done, len(codes))

    def score(
        self,
        images: AnyImage | Sequence[AnyImage],
        texts: str | Sequence[str],
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> NDArray[np.float64]:
        """(images, texts): caption losses; see :meth:`cogview.pipelines.model.Pipeline.score`."""
        items, words = image_list(images), text_list(texts, "text to score")
        at_least_one(batch_size=batch_size)
        tokens = [self.encode(text) for text in words]
        codes = [self.image_codes(item) for item in items]
        if released and self._released is not None:
            return np.array([[self._released(image, text) for text in tokens] for image in codes])
        losses = np.empty((len(items), len(words)))
        spoken = [self._language(text) for text in words]
        for language in dict.fromkeys(spoken):
            own = [number for number, one in enumerate(spoken) if one == language]
            found = self._scorer(language).score(
                codes, [tokens[i] for i in own], released=released, batch_size=batch_size, progress=progress
            )
            losses[:, own] = found.reshape(len(items), len(own))
        return losses

    def rerank(
        self,
        prompt: str,
        images: Sequence[AnyImage],
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[Ranked]:
        """Images by how well ``prompt`` describes them, the best first."""
        scores = self.score(images, prompt, released, batch_size, progress)[:, 0]
        order = np.argsort(-scores if released else scores, kind="stable")
        return [Ranked(int(number), float(scores[number])) for number in order]

    def best_of(self, images: Sequence[GeneratedImage], keep: int) -> list[GeneratedImage]:
        """Of one prompt's images the ``keep`` with the lowest caption loss, the best first.

        CogViewError where there are no images, or fewer than ``keep``.
        """
        at_least_one(keep=keep)
        if len(images) < keep:
            raise CogViewError(f"there are {len(images)} pictures; {keep} of them cannot be kept")
        caption = images[0].caption
        scorer = self._scorer(self._language(caption))
        losses = scorer.score([image.codes for image in images], [self.encode(caption)])
        chosen = []
        for rank, number in enumerate(np.argsort(losses, kind="stable")[:keep].tolist()):
            facts = {"of": len(images), "rank": rank, "caption_loss": round(float(losses[number]), 5)}
            settings = {**images[number].settings, "best_of": facts}
            chosen.append(replace(images[number], settings=settings))
        return chosen

    def best_of_each(
        self, captions: Sequence[str], made: Iterator[GeneratedImage], keep: int, best_of: int
    ) -> Iterator[GeneratedImage]:
        """Of each run of ``keep * best_of`` images of one caption the best ``keep``, as soon as all are made.

        captions: of all images, in order; one that cannot be scored is refused before any image is made.
        """
        for caption in dict.fromkeys(captions):
            self.encode(caption)

        def choose() -> Iterator[GeneratedImage]:
            while run := list(itertools.islice(made, keep * best_of)):
                yield from self.best_of(run, keep)

        return choose()

    def encode(self, text: str) -> list[int]:
        """A text's tokens; CogViewError where it is empty or longer than the caption model reads."""
        tokens = self.components.text_tokenizer.encode(text.strip())
        check_text(self.format, text, tokens)
        return tokens

    def _language(self, text: str) -> str | None:
        """The language that a text's prompt names; None where one prompt serves all."""
        return language_of(text) if self.format.languages else None

    def _scorer(self, language: str | None) -> Scorer:
        return Scorer(self.captioner.engine, self.format, language)


def _caption(draft: Draft, seed: int | None = None, index: int = 0) -> Caption:
    return Caption(draft.text, draft.pieces, draft.score, seed, index)


def _in_groups(captions: Iterator[Caption], n: int) -> Iterator[list[Caption]]:
    """``n`` at a time."""
    for first in captions:
        yield [first, *(next(captions) for _ in range(n - 1))]
