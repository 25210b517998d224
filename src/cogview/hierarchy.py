"""CogView2's hierarchy: from a sentence to a large picture in three steps (section 3.3).

A CogLM draws the codes of a small picture one by one; the direct model makes those of a large one in one
forward; the iterative model draws most of these again in a few. Both hear the small picture, as painted, as a
witness (:mod:`cogview.generation.evidence`). Between the first two the best of several may be chosen. Every
step has a random stream a picture, so a picture does not depend on its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cogview.coglm.super_resolution import DirectFormat, IterativeFormat
from cogview.data.images import to_rgb
from cogview.errors import CogViewError
from cogview.family import Family, StyleDefaults
from cogview.generation.editing import Frame
from cogview.generation.engine import Ids, Progress
from cogview.generation.evidence import PAINTED, Evidence, Witness
from cogview.generation.fairness import FairnessTable
from cogview.generation.hierarchical import DIRECT as DIRECT_SAMPLING
from cogview.generation.hierarchical import (
    Upscaler,
    direct_super_resolution,
    iterative_super_resolution,
)
from cogview.generation.linear import layers_dtype
from cogview.generation.local_parallel import find_order, top_k_of
from cogview.generation.sampling import Sampling
from cogview.generation.text_to_image import paint
from cogview.pipeline import CogView, Picture
from cogview.pipeline2 import CogView2

DIRECT, ITERATIVE = "direct", "iterative"
ORDER = "released"
TOGETHER = 4  # pictures enlarged at a time, where nothing else is asked for


def load(name: str | Path, **options: Any) -> CogView:
    """The pipeline for a family: :class:`Hierarchy` where its base is a CogLM, else :class:`CogView`.

    ``options`` are those of :meth:`CogView.from_pretrained`.
    """
    base = Family.find(name).config.roles.get("base")
    kind = Hierarchy if base is not None and base.sequences.kind == "coglm" else CogView
    return kind.from_pretrained(name, **options)


class Hierarchy(CogView2):
    """A CogLM with the models that enlarge what it draws, as far as its family has them."""

    @property
    def enlarges(self) -> bool:
        """Whether the family has a direct super-resolution model."""
        return DIRECT in self.family.config.roles

    @cached_property
    def direct(self) -> Upscaler[DirectFormat]:
        """The direct model, read at first use; CogViewError where the family has none."""
        form = self.family.role(DIRECT).sequences
        if not isinstance(form, DirectFormat):
            raise CogViewError(f"the {DIRECT} role of {self.family.config.name} does not enlarge at once")
        return Upscaler(self._model(DIRECT), form, self.engine.clusters, self.precision)

    @cached_property
    def iterative(self) -> Upscaler[IterativeFormat] | None:
        """The iterative model, read at first use; None where the family has none."""
        if ITERATIVE not in self.family.config.roles:
            return None
        form = self.family.role(ITERATIVE).sequences
        if not isinstance(form, IterativeFormat):
            raise CogViewError(f"the {ITERATIVE} role of {self.family.config.name} does not correct codes")
        return Upscaler(self._model(ITERATIVE), form, self.engine.clusters, self.precision)

    def _model(self, role: str) -> Any:
        return self.family.transformer(role, self.images_device, layers_dtype(self.precision))

    def generate(  # type: ignore[override]
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        *,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        first: int = 0,
        best_of: int = 1,
        first_stage_only: bool = False,
        truncate: bool = False,
        order: str = ORDER,
        fairness: str | Path | FairnessTable | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        on_partial: Callable[[Picture], None] | None = None,
    ) -> list[Picture]:
        """Draw ``n`` pictures for each prompt and enlarge them; see :meth:`CogView.generate`.

        Args:
            settings: of the first step, as in :class:`Sampling`; default: the style's, then the family's.
            best_of: draw so many small ones for each wanted, and enlarge those the prompt describes best.
            first_stage_only: leave them small.
            truncate: cut a prompt that is too long for a step; otherwise it is an error.
            order: of the iterative step (``released``, ``diagonal``, ``confidence``).
            fairness: as for :meth:`CogView.generate`.
        """
        wanted = [prompt] if isinstance(prompt, str) else list(prompt)
        pictures = []
        for picture in self.draw_large(
            wanted, n, seed, style, settings, first, batch_size, progress, best_of, first_stage_only,
            truncate, order, fairness,
        ):  # fmt: skip
            pictures.append(picture)
            if on_partial is not None:
                on_partial(picture)
        return pictures

    def draw_large(
        self,
        prompts: Sequence[str],
        n: int = 1,
        seed: int | None = None,
        style: str | None = None,
        settings: Mapping[str, float | None] | None = None,
        first: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
        best_of: int = 1,
        first_stage_only: bool = False,
        truncate: bool = False,
        order: str = ORDER,
        fairness: str | Path | FairnessTable | None = None,
    ) -> Iterator[Picture]:
        """:meth:`generate` as an iterator; everything is checked before it is returned."""
        find_order(order)
        enlarge = self.enlarges and not first_stage_only
        texts = [self.shortened(text, style) for text in prompts] if truncate else list(prompts)
        if enlarge and not truncate:
            self._check_lengths(texts, style)
        sampling = self.sampling_for(settings, style).model_dump()
        small = self.draw(texts, n, seed, style, sampling, first, batch_size, progress, best_of, fairness)
        return self.enlarge(small, order=order, batch_size=batch_size) if enlarge else small

    def shortened(self, prompt: str, style: str | None = None) -> str:
        """A prompt cut at its end so that with its style it fits the first step."""
        limit, words = self.coglm.text_limit, self.text.encode(prompt)
        while len(self.text.encode(self.caption_for(prompt, style))) > limit and len(words) > 1:
            excess = len(self.text.encode(self.caption_for(prompt, style))) - limit
            words = words[: max(1, len(words) - excess)]
            prompt = self.text.decode(words)
        return prompt

    def _check_lengths(self, prompts: Iterable[str], style: str | None) -> None:
        """CogViewError for a caption that is longer than what the direct model reads."""
        form = self.family.role(DIRECT).sequences
        for prompt in prompts:
            found = len(self.encode(self.caption_for(prompt, style)))
            if found > form.text_limit:
                raise CogViewError(
                    f"the prompt has {found} tokens and super-resolution reads {form.text_limit}; "
                    "shorten it, have it cut (--truncate), or leave pictures small (--first-stage-only)"
                )

    # ------------------------------------------------------------------------------------------ editing

    def _steps(self, shape: tuple[int, int]) -> tuple[str, ...]:
        """A part that is larger than what the CogLM draws goes through both upper steps."""
        if not self.enlarges or max(shape) <= self.size:
            return ()
        return (DIRECT,) if self.iterative is None else (DIRECT, ITERATIVE)

    def _large_part(
        self, original: Image.Image, codes: Ids, area: Frame, pieces: Sequence[int], stream: tuple[int, int]
    ) -> Image.Image:
        """The direct model enlarges what was drawn; outside the mask the picture's own large codes come back,
        and the iterative model draws again inside it alone, in view of them."""
        form = self.direct.form
        side = self.size * form.grid[0] // form.small[0]
        known = self._codes(to_rgb(area.cut(original))[0], side)
        region, text = area.grid_mask(form.grid), [list(pieces)[: form.text_limit]]
        witnesses = self.witnesses([codes])
        drawn = direct_super_resolution(
            self.direct,
            text,
            codes[None],
            pairs=[stream],
            settings=self.direct_settings(),
            witnesses=witnesses,
        )
        large = np.where(region.ravel(), drawn, known)
        if self.iterative is not None:
            large = iterative_super_resolution(
                self.iterative,
                text,
                large,
                pairs=[stream],
                settings=self.iterative_settings(),
                region=region.reshape(1, -1),
                witnesses=witnesses,
            )
        height, width = area.shape
        return paint(self.images, large[0], form.grid).resize((width, height), Image.Resampling.BICUBIC)

    def _enlarged_whole(self, picture: Picture) -> Picture:
        [large] = self.enlarge([picture])
        return large

    def enlarge(
        self,
        pictures: Iterable[Picture],
        *,
        order: str = ORDER,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Picture]:
        """Small pictures, drawn by this family, as large ones; of a text what a model reads.

        Raises CogViewError where a picture has not the small grid's codes.
        """
        for _, alike in itertools.groupby(pictures, _style):
            while some := list(itertools.islice(alike, batch_size or TOGETHER)):
                yield from self._enlarged(some, order, progress)

    def direct_settings(self, style: str | None = None) -> Sampling:
        """Sampling of the direct step: the style's settings over the family's over the release's."""
        config = self.family.config
        phrases = None if style is None else self.style(style)
        own = [x for name, x in config.style_direct.items() if self.styles.get(name) is phrases and phrases]
        return _over(DIRECT_SAMPLING if self.direct.clusters is not None else Sampling(), config.direct, *own)

    def iterative_settings(self, order: str = ORDER) -> list[Sampling]:
        """Sampling of every turn of the iterative step: the family's settings over the release's."""
        turns = find_order(order).turns
        released = [Sampling(top_k=top_k_of(turn + 1, turns)) for turn in range(turns)]
        return [_over(sampling, self.family.config.iterative) for sampling in released]

    def _enlarged(self, some: Sequence[Picture], order: str, progress: Progress | None) -> Iterator[Picture]:
        texts = [self.text.encode(picture.caption)[: self.direct.form.text_limit] for picture in some]
        pairs = [(picture.seed, picture.index) for picture in some]
        together: dict[str, Any] = {
            "pairs": pairs,
            "batch_size": len(some),
            "progress": progress,
            "witnesses": self.witnesses([picture.codes for picture in some]),
        }
        codes, settings = np.stack([picture.codes for picture in some]), self.direct_settings(_style(some[0]))
        found = direct_super_resolution(self.direct, texts, codes, settings=settings, **together)
        facts: dict[str, Any] = {"super_resolution": "direct"}
        if self.iterative is not None:
            turns = self.iterative_settings(order)
            found = iterative_super_resolution(
                self.iterative, texts, found, order=order, settings=turns, **together
            )
            facts = {"super_resolution": "direct and iterative", "order": order}
        for picture, codes in zip(some, found, strict=True):
            image = paint(self.images, codes, self.direct.form.grid)
            yield replace(picture, image=image, codes=codes, settings={**picture.settings, **facts})

    @cached_property
    def witness(self) -> Witness | None:
        """What makes evidence of small pictures; None where the tokenizer has several scales."""
        return Witness.of(self.images)

    @torch.inference_mode()
    def witnesses(self, small: Sequence[Ids]) -> list[Evidence] | None:
        """What small pictures of codes (rows * columns,), as painted, say of the large ones' codes.

        None where the tokenizer has several scales.
        """
        if self.witness is None:
            return None
        form = self.direct.form
        codes = torch.from_numpy(np.stack(small)).to(self.images_device)
        painted = self.images.decode(codes, form.small).clamp(0, 1)
        times = form.grid[0] // form.small[0]
        return [self.witness.evidence(pixels, times, PAINTED) for pixels in painted]


def _style(picture: Picture) -> str | None:
    """The style a picture was drawn in, as its settings say."""
    found = picture.settings.get("style")
    return found if isinstance(found, str) else None


def _over(sampling: Sampling, *settings: StyleDefaults) -> Sampling:
    """Sampling with what is set in ``settings``, the later ones over the earlier."""
    for given in settings:
        sampling = Sampling.model_validate(sampling.model_dump() | given.model_dump(exclude_none=True))
    return sampling
