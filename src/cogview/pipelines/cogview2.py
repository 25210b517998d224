"""CogView2's composition: one CogLM generates, inpaints, captions and scores, because of what of a sequence
is masked (section 3.1); two more models upscale what it generates (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cogview.checkpoints.bundle import BASE, DIRECT, ITERATIVE
from cogview.errors import CogViewError
from cogview.generation.captioning import text_rows
from cogview.generation.engine import Engine
from cogview.generation.scoring import released_score
from cogview.pipelines.base import AnyImage
from cogview.pipelines.captioning import Captioning
from cogview.pipelines.engines import make_engine
from cogview.pipelines.inpainting import Inpainting, square_codes
from cogview.pipelines.model import Pipeline
from cogview.pipelines.super_resolution import TwoStageSuperResolution
from cogview.pipelines.text_to_image import TextToImage
from cogview.sequences import CogLMFormat, DirectFormat, IterativeFormat, of_type
from cogview.transformer.model import Transformer
from cogview.types import Ids


class CogView2(Pipeline):
    """A family whose base model is a CogLM. Made by :meth:`from_pretrained`."""

    _opens_any = False

    def _check(self) -> None:
        if self.bundle.role(BASE).sequences.kind != "coglm":
            raise self.bundle.config.unsupported("edit", f": its {BASE} model only draws")
        if self.components.sparse is not None:
            raise CogViewError(
                f"the model {self.bundle.config.name} is a CogLM, which draws without sparse attention; "
                "leave it out"
            )
        if self.components.lora is not None:
            self._coglm  # noqa: B018  (an adapter that does not fit is refused at once)

    @cached_property
    def _coglm(self) -> Transformer:
        return self.components.transformer(BASE)

    @cached_property
    def _format(self) -> CogLMFormat:
        found = of_type(self.bundle.role(BASE).sequences, CogLMFormat)
        assert found is not None
        return found

    @cached_property
    def text_to_image(self) -> TextToImage:
        rows = slice(0, self.bundle.config.vocabulary.image_codes)

        def load() -> Engine:
            return make_engine(self.components, self._coglm, rows, self.components.clusters)

        return TextToImage(self.components, self._format, load)

    @cached_property
    def captioning(self) -> Captioning:
        format = self._format

        def load() -> Engine:
            rows = text_rows(format.vocabulary, self._coglm.config.vocab_size)
            return make_engine(self.components, self._coglm, rows)

        def released(codes: Ids, text: Sequence[int]) -> float:
            return released_score(self._coglm, format, codes, np.array(text), self.components.precision)

        return Captioning(self.components, format, load, self._image_codes, released)

    def _image_codes(self, image: AnyImage) -> Ids:
        return square_codes(self.components, self._format, image)

    @cached_property
    def _inpainting(self) -> Inpainting:
        upper = self.super_resolution if self.bundle.config.two_stage else None
        return Inpainting(self.components, self._format, lambda: self.text_to_image.engine, upper)

    @cached_property
    def super_resolution(self) -> TwoStageSuperResolution:
        self._require("upscale", DIRECT)
        roles = self.bundle.config.roles
        direct = of_type(roles[DIRECT].sequences, DirectFormat)
        iterative = of_type(roles[ITERATIVE].sequences, IterativeFormat) if ITERATIVE in roles else None
        assert direct is not None and (iterative is not None or ITERATIVE not in roles)
        return TwoStageSuperResolution(self.components, direct, iterative, self._image_codes)
