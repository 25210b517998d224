"""CogView2's hierarchy: from a sentence to a large picture in three steps (section 3.3).

A CogLM draws the codes of a small picture one by one; the direct model makes those of a large one in one
forward; the iterative model draws most of these again in a few. Both hear the small picture, as painted, as a
witness (:mod:`cogview.generation.evidence`). Between the first two the best of several may be chosen. Every
step has a random stream a picture, so a picture does not depend on its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cogview.coglm.super_resolution import DirectFormat, IterativeFormat
from cogview.data.images import to_rgb
from cogview.describing import at_least_one, spoken
from cogview.errors import CogViewError
from cogview.family import StyleDefaults
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
from cogview.generation.progress import Parts
from cogview.generation.settings import Sampling
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
    return CogView.from_pretrained(name, **options)


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

    def draw_large(
        self,
        prompt: str | Sequence[str],
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
        order: str | None = None,
        fairness: str | Path | FairnessTable | None = None,
    ) -> Iterator[Picture]:
        """Pictures drawn small and enlarged; see :meth:`CogView.draw_large`."""
        if not self.enlarges:
            return super().draw_large(
                prompt, n, seed, style, settings, first, batch_size, progress, best_of, first_stage_only,
                truncate, order, fairness,
            )  # fmt: skip
        texts = self._cut(prompt, style) if truncate else spoken(prompt)
        if first_stage_only:
            if order is not None:
                raise CogViewError("order is of the step that first_stage_only leaves out; give one of them")
            return self.draw(texts, n, seed, style, settings, first, batch_size, progress, best_of, fairness)
        find_order(order or ORDER)
        if not truncate:
            self._check_lengths(texts, style)
        at_least_one(n=n, best_of=best_of)
        drawn, enlarged = len(texts) * n * best_of * self.coglm.codes, len(texts) * n * self._large_codes
        parts = Parts(progress, drawn + enlarged * len(self._upper))
        small = self.draw(
            texts, n, seed, style, settings, first, batch_size, parts.part(drawn), best_of, fairness
        )
        return self._in_parts(small, order or ORDER, batch_size, parts)

    @property
    def _upper(self) -> tuple[str, ...]:
        """The steps that enlarge."""
        return tuple(role for role in (DIRECT, ITERATIVE) if role in self.family.config.roles)

    @property
    def _large_codes(self) -> int:
        return self.family.role(DIRECT).sequences.codes if self.enlarges else 0

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
        self,
        original: Image.Image,
        codes: Ids,
        area: Frame,
        pieces: Sequence[int],
        stream: tuple[int, int],
        parts: Parts,
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
            progress=parts.part(self._large_codes),
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
                progress=parts.part(self._large_codes),
            )
        height, width = area.shape
        return paint(self.images, large[0], form.grid).resize((width, height), Image.Resampling.BICUBIC)

    def _all_enlarged(self, pictures: list[Picture], batch_size: int | None, parts: Parts) -> list[Picture]:
        return list(self._in_parts(pictures, ORDER, batch_size, parts))

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
        items = list(pictures) if progress is not None else pictures
        count = len(items) if isinstance(items, list) else 0
        parts = Parts(progress, count * self._large_codes * len(self._upper))
        yield from self._in_parts(items, order, batch_size, parts)

    def _in_parts(
        self, pictures: Iterable[Picture], order: str, batch_size: int | None, parts: Parts
    ) -> Iterator[Picture]:
        """:meth:`enlarge`, each step of each batch a part of what is told."""
        at_least_one(batch_size=batch_size)
        for _, alike in itertools.groupby(pictures, _style):
            while some := list(itertools.islice(alike, batch_size or TOGETHER)):
                yield from self._enlarged(some, order, parts)

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

    def _enlarged(self, some: Sequence[Picture], order: str, parts: Parts) -> Iterator[Picture]:
        texts = [self.text.encode(picture.caption)[: self.direct.form.text_limit] for picture in some]
        pairs = [(picture.seed, picture.index) for picture in some]
        together: dict[str, Any] = {
            "pairs": pairs,
            "batch_size": len(some),
            "witnesses": self.witnesses([picture.codes for picture in some]),
        }
        codes, settings = np.stack([picture.codes for picture in some]), self.direct_settings(_style(some[0]))
        size = len(some) * self._large_codes
        found = direct_super_resolution(
            self.direct, texts, codes, settings=settings, progress=parts.part(size), **together
        )
        facts: dict[str, Any] = {"super_resolution": "direct"}
        if self.iterative is not None:
            turns = self.iterative_settings(order)
            found = iterative_super_resolution(
                self.iterative,
                texts,
                found,
                order=order,
                settings=turns,
                progress=parts.part(size),
                **together,
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
