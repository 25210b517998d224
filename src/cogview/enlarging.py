"""The part of :class:`~cogview.pipeline.CogView` that enlarges pictures (CogView, section 3.1).

All of it is the family's ``super_resolution`` role, read at first use. Pictures are files, Pillow images or
what ``generate`` gave, whose codes are then used as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from cogview.describing import AnyPicture, at_least_one, checked_seed, listed, opened, whole_number
from cogview.errors import CogViewError
from cogview.family import Family
from cogview.generation.engine import Progress
from cogview.generation.picture import Picture
from cogview.generation.roles import UPSCALING, Roles
from cogview.generation.settings import MAX_SEED, Sampling
from cogview.generation.super_resolution import scale_of
from cogview.generation.upscaling import DETAIL, Original, Request, Upscaler
from cogview.provenance import read as read_provenance
from cogview.sequences import SequenceFormat
from cogview.tokenizers.images import AnyImageTokenizer


@dataclass(frozen=True)
class _Source:
    """A picture to enlarge, its words and streams, and what is told of it in the result."""

    original: Original
    prompt: str
    caption: str
    seed: int
    index: int
    facts: dict[str, Any]


class Enlarging:
    """What :class:`~cogview.pipeline.CogView` can do with its super-resolution model."""

    family: Family
    roles: Roles
    images: AnyImageTokenizer

    @cached_property
    def form(self) -> SequenceFormat:
        """The sequences of the base model."""
        raise NotImplementedError

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over the family's weights and configurations."""
        raise NotImplementedError

    @property
    def styles(self) -> dict[str, dict[str, str]]:
        """The styles to choose from."""
        raise NotImplementedError

    def sampling(self, settings: Mapping[str, float | None]) -> Sampling:
        """The settings that are not None over the defaults."""
        raise NotImplementedError

    def caption_for(self, prompt: str, style: str | None = None) -> str:
        """What a model reads for a prompt."""
        raise NotImplementedError

    def encode(self, caption: str, form: SequenceFormat | None = None) -> list[int]:
        """A caption's text pieces."""
        raise NotImplementedError

    def _ways(self) -> dict[str, Any]:
        """How it is computed, as far as the result may depend on it."""
        raise NotImplementedError

    @cached_property
    def upscaler(self) -> Upscaler:
        """The family's super-resolution model, read at first use; CogViewError where it has none."""
        form = self.family.role(UPSCALING).sequences
        if not isinstance(form, SequenceFormat):
            name = self.family.config.name
            raise CogViewError(f"the {UPSCALING} role of {name} does not enlarge pictures ({form.kind})")
        scale_of(form)
        rows = slice(0, self.family.config.vocabulary.image_codes)
        return Upscaler(self.roles.engine(UPSCALING, rows), form, self.images)

    def upscale(
        self,
        pictures: AnyPicture | Sequence[AnyPicture],
        prompt: str | Sequence[str] | None = None,
        *,
        times: int = 2,
        seed: int | None = None,
        size: int | None = None,
        faithful: bool = True,
        detail: float = DETAIL,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        on_partial: Callable[[Picture], None] | None = None,
    ) -> list[Picture]:
        """Enlarge pictures, drawing what they do not show (CogView, section 3.1).

        Args:
            pictures: one or several; files, Pillow images, or what :meth:`generate` gave, whose codes and
                caption are then used as they are.
            prompt: what they show, one for all or one each; default: what a file made here tells of itself.
            times: 2 or 4 (the model twice), where the model doubles sides.
            seed: default: a generated picture's own, else a new one.
            size: read a picture with its shorter side at so many pixels; default: at its own size, or
                enlarged to the tokenizer's if that is larger. Without it results are ``times`` as large.
            faithful: let the pixels have a say in what is drawn, and correct results until they are the
                given picture again when shrunk; False: what the model draws from codes alone.
            detail: then how much of what was drawn to show, from 0 (a bicubic enlargement) to 1.
            temperature, top_k, top_p, guidance: see :class:`Sampling`; default: the family's, no guidance.
            batch_size: the most windows to draw at a time; it does not change the pictures.
            progress, on_partial: as for :meth:`generate`.

        Raises:
            CogViewError: no such role, a file that is no picture, one too large, or settings out of range.
        """
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        items = listed(pictures)
        prompts = _each(prompt, len(items))
        check_counts(["-"] * len(items), 1, 0, batch_size)
        if not 0 <= detail <= 1:
            raise CogViewError(f"detail is {detail}; give a number from 0 to 1")
        if not faithful and detail != DETAIL:
            raise CogViewError("detail is of the faithful way; leave it out, or faithful=False")
        self.upscaler.stages(times)
        sampling = self.sampling({"guidance": 1.0} | {k: v for k, v in given.items() if v is not None})
        seed = seed if seed is None else checked_seed(seed)
        facts = {"task": "upscale", "times": times, "size": size, "faithful": faithful, "detail": detail}
        sources = [
            self._source(item, text, seed, times, size) for item, text in zip(items, prompts, strict=True)
        ]
        requests = [
            Request(
                source.original, self.encode(source.caption, self.upscaler.form), source.seed, source.index
            )
            for source in sources
        ]
        made = []
        for number, codes, image in self.upscaler.run(
            requests, times, sampling, faithful, detail, batch_size, progress
        ):
            source = sources[number]
            picture = Picture(
                image=image,
                codes=codes.ravel(),
                prompt=source.prompt,
                caption=source.caption,
                seed=source.seed,
                index=source.index,
                settings={**sampling.model_dump(), **self._ways(), **facts, "source": source.facts},
                model=self.family.config.name,
                model_hash=self.model_hash,
            )
            made.append(picture)
            if on_partial is not None:
                on_partial(picture)
        return made

    def _source(
        self, item: AnyPicture, prompt: str | None, seed: int | None, times: int, size: int | None
    ) -> _Source:
        """What :meth:`upscale` needs of one picture."""
        if isinstance(item, Picture) and len(item.codes) == self.form.codes and size is None:
            told = {"seed": item.seed, "index": item.index, "settings": item.settings}
            words = (item.prompt, item.caption) if prompt is None else (prompt, prompt.strip())
            original = Original(item.codes.reshape(self.form.grid))
            return _Source(original, *words, item.seed if seed is None else seed, item.index, told)
        if isinstance(item, Picture):
            return self._source(item.image, item.caption if prompt is None else prompt, seed, times, size)
        image, where = opened(item)
        try:
            original = self.upscaler.read(image, times, size)
        except CogViewError as error:
            raise CogViewError(f"{where}: {error}") from None
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        told = {"sha256": pixels, "width": image.width, "height": image.height}
        words = self._words(item) if prompt is None else (prompt, prompt.strip())
        return _Source(original, *words, checked_seed(seed), 0, told)

    def _words(self, item: Image.Image | str | Path) -> tuple[str, str]:
        """Prompt and caption that a file made here tells of itself; empty for any other picture."""
        try:
            told = None if isinstance(item, Image.Image) else read_provenance(item)
        except CogViewError:  # not ours to judge: it is a picture, and that is enough
            told = None
        if told is None or not told.prompt.strip():
            return "", ""
        style, words = told.settings.get("style"), told.settings.get("fairness")
        text = words.get("text") if isinstance(words, dict) else None
        return told.prompt, self.caption_for(
            text if isinstance(text, str) else told.prompt,
            style if isinstance(style, str) and style in self.styles else None,
        )


def _each(prompt: str | Sequence[str] | None, count: int) -> list[str | None]:
    """One prompt for each of ``count`` pictures."""
    if prompt is None or isinstance(prompt, str):
        return [prompt] * count
    if len(prompt) != count:
        raise CogViewError(f"there are {count} pictures and {len(prompt)} prompts; give one, or one for each")
    return list(prompt)


def check_counts(prompts: Sequence[str], n: int, first: int, batch_size: int | None) -> None:
    """CogViewError where there is nothing to do, or a number is out of range."""
    if not prompts:
        raise CogViewError("there is no prompt; say what to draw")
    at_least_one(n=n, batch_size=batch_size)
    if not 0 <= whole_number("first", first) <= MAX_SEED - n:
        raise CogViewError(f"first is {first}; pictures are counted from 0")
