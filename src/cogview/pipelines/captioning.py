"""Captioning, caption loss and reranking of images: the tasks of a caption model (CogView, section 3.2).

Images are files, Pillow images or results of ``generate``, whose codes are used directly.
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
    MAX_CAPTIONS,
    AnyImage,
    Caption,
    GeneratedImage,
    Ranked,
    check_count,
    check_positive,
    checked_seed,
    image_list,
    text_list,
)
from cogview.sequences.protocols import CaptionFormat, check_text
from cogview.types import BEAMS, Ids, ProgressCallback, SamplingParams

ReleasedScore = Callable[[Ids, Sequence[int]], float]


class Captioning:
    """The caption model of a family, loaded at first use.

    Attributes:
        format: its sequence format.
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
        """The model with its sequence format and text tokenizer."""
        return Captioner(self._load(), self.format, self.components.text_tokenizer)

    def image_codes(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,); those of a generated image are reused."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self.format.codes:
            return image.codes
        codes = self._encode(image)
        if len(codes) != self.format.codes:
            raise CogViewError(
                f"the image tokenizer returns {len(codes)} codes, the caption model reads {self.format.codes}"
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
                "beams cannot be combined with a seed or sampling settings; give one of them", field="beams"
            )
        check_positive(n=n, beams=beams, batch_size=batch_size)
        check_count("captions", max(n, beams or 1), MAX_CAPTIONS)
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
            groups = self._beam_search(codes, n, beams or max(BEAMS, n), language, max_length, progress)
        else:
            seed = checked_seed(seed)
            samples = [(image, seed, index) for image in range(len(items)) for index in range(n)]
            drafts = captioner.sample(
                codes, samples, config.sampling("caption", params), language, max_length, batch_size, progress
            )
            groups = _in_groups((_caption(draft, seed, samples[i][2]) for i, draft in drafts), n)
        captions = []
        for group in groups:
            captions.append(group)
            if callback is not None:
                callback(group)
        return captions

    def _beam_search(
        self,
        codes: Sequence[Ids],
        n: int,
        beams: int,
        language: str | None,
        length: int | None,
        progress: ProgressCallback | None,
    ) -> Iterator[list[Caption]]:
        """The best captions of each image."""
        for done, image in enumerate(codes, 1):
            yield [_caption(draft) for draft in self.captioner.beams(image, n, beams, language, length)]
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
        items, texts = image_list(images), text_list(texts, "text to score")
        check_positive(batch_size=batch_size)
        tokens = [self.encode(text) for text in texts]
        codes = [self.image_codes(item) for item in items]
        if released and self._released is not None:
            return np.array([[self._released(image, text) for text in tokens] for image in codes])
        losses = np.empty((len(items), len(texts)))
        languages = [self._language(text) for text in texts]
        for language in dict.fromkeys(languages):
            columns = [number for number, other in enumerate(languages) if other == language]
            scores = self._scorer(language).score(
                codes,
                [tokens[i] for i in columns],
                released=released,
                batch_size=batch_size,
                progress=progress,
            )
            losses[:, columns] = scores.reshape(len(items), len(columns))
        return losses

    def rerank(
        self,
        prompt: str,
        images: Sequence[AnyImage],
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[Ranked]:
        """Rank images by how well ``prompt`` describes them, the best first."""
        scores = self.score(images, prompt, released, batch_size, progress)[:, 0]
        order = np.argsort(-scores if released else scores, kind="stable")
        return [Ranked(int(number), float(scores[number])) for number in order]

    def best_of(self, images: Sequence[GeneratedImage], keep: int) -> list[GeneratedImage]:
        """The ``keep`` images of one prompt with the lowest caption loss, the best first.

        Raises CogViewError if there are fewer images than ``keep``.
        """
        check_positive(keep=keep)
        if len(images) < keep:
            raise CogViewError(f"there are {len(images)} images, fewer than keep ({keep})")
        caption = images[0].caption
        scorer = self._scorer(self._language(caption))
        losses = scorer.score([image.codes for image in images], [self.encode(caption)])
        best = []
        for rank, number in enumerate(np.argsort(losses, kind="stable")[:keep].tolist()):
            facts = {"of": len(images), "rank": rank, "caption_loss": round(float(losses[number]), 5)}
            settings = {**images[number].settings, "best_of": facts}
            best.append(replace(images[number], settings=settings))
        return best

    def best_of_each(
        self, captions: Sequence[str], images: Iterator[GeneratedImage], keep: int, best_of: int
    ) -> Iterator[GeneratedImage]:
        """The best ``keep`` of each ``keep * best_of`` consecutive images, which have the same caption.

        captions: of all images, in order. They are checked first: a caption that cannot be scored raises
        CogViewError before any image is generated.
        """
        for caption in dict.fromkeys(captions):
            self.encode(caption)

        def select() -> Iterator[GeneratedImage]:
            while candidates := list(itertools.islice(images, keep * best_of)):
                yield from self.best_of(candidates, keep)

        return select()

    def encode(self, text: str) -> list[int]:
        """A text's tokens; raises CogViewError if it is empty or longer than the caption model reads."""
        tokens = self.components.text_tokenizer.encode(text.strip())
        check_text(self.format, text, tokens)
        return tokens

    def _language(self, text: str) -> str | None:
        """The language of a text for the caption prompt; None if the prompt does not depend on it."""
        return language_of(text) if self.format.languages else None

    def _scorer(self, language: str | None) -> Scorer:
        return Scorer(self.captioner.engine, self.format, language)


def _caption(draft: Draft, seed: int | None = None, index: int = 0) -> Caption:
    return Caption(draft.text, draft.pieces, draft.score, seed, index)


def _in_groups(captions: Iterator[Caption], n: int) -> Iterator[list[Caption]]:
    """Group captions, ``n`` at a time."""
    for first in captions:
        yield [first, *(next(captions) for _ in range(n - 1))]
