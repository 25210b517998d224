"""The half of :class:`~cogview.pipeline.CogView` that says things of pictures: captions, scores, ranks.

All of it is the family's ``caption`` role (CogView, section 3.2), read at first use. Pictures are files,
Pillow images or what ``generate`` gave, whose codes are then used as they are.
"""

from __future__ import annotations

import dataclasses
import operator
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cogview.data.images import BadImage, decode, square, to_rgb
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.generation.captioning import Captioner, Draft, text_rows
from cogview.generation.engine import Ids, Progress
from cogview.generation.picture import Picture
from cogview.generation.roles import CAPTION, Roles
from cogview.generation.scoring import Scorer, check_text
from cogview.generation.settings import Sampling, check_seed
from cogview.tokenizers.images import AnyImageTokenizer
from cogview.tokenizers.text import TextTokenizer

AnyPicture = Picture | Image.Image | str | Path
BEAMS = 4


@dataclass(frozen=True)
class Caption:
    """A caption of a picture.

    pieces: (n,) int64, of the text tokenizer; score: mean log-probability of a token where beams found it;
    seed and index: its random stream where it was drawn by chance.
    """

    text: str
    pieces: Ids
    score: float | None = None
    seed: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Ranked:
    """A picture's place in an order: its number as it was given, and its caption loss (or released score)."""

    number: int
    score: float


class Describing:
    """Captions, scores and ranks, for a class that has a family's models."""

    roles: Roles
    text: TextTokenizer
    images: AnyImageTokenizer

    def sampling(self, settings: Mapping[str, float | None]) -> Sampling:
        """The settings that are not None over the defaults."""
        raise NotImplementedError

    @cached_property
    def captioner(self) -> Captioner:
        """The family's caption model, read at first use; CogViewError where it has none."""
        if CAPTION not in self.roles.family.config.roles:
            name, there = self.roles.family.config.name, ", ".join(self.roles.family.config.roles)
            raise CogViewError(
                f"the model {name} cannot describe or score pictures: it has {there}, no {CAPTION}; "
                f"take a model with {CAPTION!r} (`cogview models` lists them)"
            )
        form, rows = self.roles.form(CAPTION), self.roles.family.check(CAPTION).vocab_size
        return Captioner(self.roles.engine(CAPTION, text_rows(form.vocabulary, rows)), form, self.text)

    @cached_property
    def scorer(self) -> Scorer:
        """The same model, for caption losses."""
        return Scorer(self.captioner.engine, self.captioner.form)

    def caption(
        self,
        pictures: AnyPicture | Sequence[AnyPicture],
        n: int = 1,
        *,
        language: str | None = None,
        beams: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        max_length: int | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[list[Caption]]:
        """Describe pictures, ``n`` captions each.

        Beam search gives the best captions first; with a seed or a sampling setting captions are drawn by
        chance, and caption i of a seed is always the same one.

        Args:
            language: ``zh`` or ``en``; default: whichever comes.
            beams: followed at once, at least n (default: 4, or n).
            seed, temperature, top_k, top_p: see :class:`Sampling`; default: a new seed, 1, all tokens.
            max_length: the most text pieces; default: as many as the model reads.
            batch_size: the most captions to draw at a time; it does not change them.

        Raises:
            CogViewError: no caption role, a file that is no picture, settings out of range.
        """
        items = listed(pictures)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        chance = seed is not None or any(value is not None for value in given.values())
        if beams is not None and chance:
            raise CogViewError("beams and a seed or sampling settings exclude each other; give one of them")
        at_least_one(n=n, beams=beams, batch_size=batch_size)
        if beams is not None and beams < n:
            raise CogViewError(f"{n} captions need at least {n} beams, not {beams}")
        captioner = self.captioner
        captioner.steps(max_length), captioner.writing(language)
        if not chance:
            width = beams or max(BEAMS, n)
            return list(self._searched(items, n, width, language, max_length, progress))
        seed = checked_seed(seed)
        settings = self.sampling({"temperature": 1.0, "top_k": 0, "top_p": 1.0} | _given(given))
        wanted = [(picture, seed, index) for picture in range(len(items)) for index in range(n)]
        codes = [self.codes_of(item) for item in items]
        drawn = captioner.sample(codes, wanted, settings, language, max_length, batch_size, progress)
        made = [_caption(draft, seed, wanted[number][2]) for number, draft in drawn]
        return [made[i : i + n] for i in range(0, len(made), n)]

    def _searched(
        self,
        items: Sequence[AnyPicture],
        n: int,
        beams: int,
        language: str | None,
        length: int | None,
        progress: Progress | None,
    ) -> Iterator[list[Caption]]:
        """The best captions of each picture."""
        codes = [self.codes_of(item) for item in items]
        for done, own in enumerate(codes, 1):
            yield [_caption(draft) for draft in self.captioner.beams(own, n, beams, language, length)]
            if progress is not None:
                progress(done, len(codes))

    def score(
        self,
        pictures: AnyPicture | Sequence[AnyPicture],
        texts: str | Sequence[str],
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """How well each text describes each picture: the caption loss in nats a token, the lower the better.

        Args:
            released: the sum of log p instead, the higher the better, as the released code has it.
            batch_size: the most pairs at a time; it does not change their scores.

        Returns:
            (pictures, texts)

        Raises:
            CogViewError: no caption role, a file that is no picture, an empty or too long text.
        """
        items, words = listed(pictures), spoken(texts, "text to score")
        at_least_one(batch_size=batch_size)
        scorer, pieces = self.scorer, [self.scored_pieces(text) for text in words]
        codes = [self.codes_of(item) for item in items]
        found = scorer.score(codes, pieces, released=released, batch_size=batch_size, progress=progress)
        return found.reshape(len(items), len(words))

    def rerank(
        self,
        prompt: str,
        pictures: Sequence[AnyPicture],
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[Ranked]:
        """Pictures by how well ``prompt`` describes them, the best first; arguments as for :meth:`score`."""
        scores = self.score(pictures, prompt, released=released, batch_size=batch_size, progress=progress)
        order = np.argsort(-scores[:, 0] if released else scores[:, 0], kind="stable")
        return [Ranked(int(number), float(scores[number, 0])) for number in order]

    def best_of(self, pictures: Sequence[Picture], keep: int) -> list[Picture]:
        """Of one prompt's pictures the ``keep`` with the lowest caption loss, the best first.

        Raises CogViewError where there are no pictures, or fewer than ``keep``.
        """
        self._check_choice(pictures, keep)
        pieces = self.scored_pieces(pictures[0].caption)
        losses = self.scorer.score([picture.codes for picture in pictures], [pieces])
        chosen = []
        for rank, number in enumerate(np.argsort(losses, kind="stable")[:keep].tolist()):
            facts = {"of": len(pictures), "rank": rank, "caption_loss": round(float(losses[number]), 5)}
            settings = {**pictures[number].settings, "best_of": facts}
            chosen.append(dataclasses.replace(pictures[number], settings=settings))
        return chosen

    @staticmethod
    def _check_choice(pictures: Sequence[Picture], keep: int) -> None:
        at_least_one(keep=keep)
        if len(pictures) < keep:
            raise CogViewError(f"there are {len(pictures)} pictures; {keep} of them cannot be kept")

    def scored_pieces(self, text: str) -> list[int]:
        """A text's pieces; CogViewError where it is empty or longer than the caption model reads."""
        pieces = self.text.encode(text.strip())
        check_text(self.captioner.form, text, pieces)
        return pieces

    @torch.inference_mode()
    def codes_of(self, picture: AnyPicture) -> Ids:
        """A picture's codes (rows * columns,) for the caption model; a generated one has them already."""
        form = self.captioner.form
        if isinstance(picture, Picture) and len(picture.codes) == form.codes:
            return picture.codes
        image = picture.image if isinstance(picture, Picture) else opened(picture)[0]
        released = self.captioner.engine.decoder.config.numerics == "released"
        size = self.images.image_size
        pixels = square(image, Preprocessing(size=size, resample="bilinear" if released else "box"))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.roles.device).float() / 255
        codes: Ids = self.images.encode(tensor)[0].cpu().numpy()
        if len(codes) != form.codes:
            raise CogViewError(
                f"the tokenizer gives {len(codes)} codes and the caption model reads {form.codes}"
            )
        return codes


def listed(pictures: AnyPicture | Sequence[AnyPicture]) -> list[AnyPicture]:
    """One picture or several as a list; CogViewError for none, and for what is none."""
    items = [pictures] if isinstance(pictures, AnyPicture) else _items(pictures, "picture")
    if not items:
        raise CogViewError("there is no picture")
    for item in items:
        if not isinstance(item, AnyPicture):
            raise CogViewError(f"{item!r:.60} is no picture; give a file or a Pillow image")
    return items


def spoken(texts: str | Sequence[str], what: str = "prompt") -> list[str]:
    """One text or several as a list; CogViewError for none, and for what is none."""
    items = [texts] if isinstance(texts, str) else _items(texts, what)
    if not items:
        raise CogViewError(f"there is no {what}")
    for item in items:
        if not isinstance(item, str):
            raise CogViewError(f"{item!r:.60} is no text; give a {what}, or a list of them")
    return items


def _items(given: Any, what: str) -> list[Any]:
    try:
        return list(given)
    except TypeError:
        raise CogViewError(f"{given!r:.60} is no {what}, nor a list of them") from None


def whole_number(name: str, value: int) -> int:
    """A whole number; CogViewError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise CogViewError(f"{name} is {value!r:.60}; give a whole number") from None


def at_least_one(**counts: int | None) -> None:
    """CogViewError for a number below 1; None is no number asked for."""
    for name, value in counts.items():
        if value is not None and whole_number(name, value) < 1:
            raise CogViewError(f"{name} is {value}; it must be at least 1")


def opened(item: Image.Image | str | Path) -> tuple[Image.Image, str]:
    """The picture in RGB, and what to call it in an error."""
    if isinstance(item, Image.Image):
        return to_rgb(item)[0], "picture"
    try:
        return decode(Path(item)).image, str(item)
    except BadImage as error:
        raise CogViewError(f"{item}: {error}") from error


def checked_seed(seed: int | None) -> int:
    """The seed, a new one for None; CogViewError out of range."""
    return secrets.randbits(32) if seed is None else check_seed(whole_number("seed", seed))


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _caption(draft: Draft, seed: int | None = None, index: int = 0) -> Caption:
    return Caption(draft.text, draft.pieces, draft.score, seed, index)
