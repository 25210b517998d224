"""The tasks of a CogLM: generating, inpainting, captioning and scoring, each with a different mask over the
sequence (CogView2, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cogview.checkpoints.bundle import BASE
from cogview.checkpoints.components import Components
from cogview.generation.caption_decoding import text_rows
from cogview.generation.engine import Engine
from cogview.generation.scoring import released_score
from cogview.pipelines.base import AnyImage
from cogview.pipelines.captioning import Captioning
from cogview.pipelines.engines import make_engine, read_next_tokens
from cogview.pipelines.inpainting import Inpainting, square_codes
from cogview.pipelines.super_resolution import TwoStageSuperResolution
from cogview.pipelines.text_to_image import TextToImage
from cogview.sequences import CogLMFormat, of_type
from cogview.transformer.model import Transformer
from cogview.types import Ids


class CogLM:
    """The CogLM of a family, loaded at first use.

    Attributes:
        role: its role in the family.
        format: its sequence format.
    """

    def __init__(self, components: Components, role: str = BASE) -> None:
        self.components, self.role = components, role
        format = of_type(components.bundle.role(role).sequences, CogLMFormat)
        assert format is not None
        self.format = format

    @cached_property
    def model(self) -> Transformer:
        """The transformer."""
        return self.components.transformer(self.role)

    @cached_property
    def text_to_image(self) -> TextToImage:
        """The text-to-image task."""
        rows = slice(0, self.components.bundle.config.vocabulary.image_codes)

        def load() -> Engine:
            return make_engine(self.components, self.model, rows, self.components.clusters)

        return TextToImage(self.components, self.format, load)

    @cached_property
    def captioning(self) -> Captioning:
        """The captioning and scoring task."""

        def load() -> Engine:
            rows = text_rows(self.format.vocabulary, self.model.config.vocab_size)
            next_tokens = read_next_tokens(self.components, self.role)
            return make_engine(self.components, self.model, rows, next_tokens=next_tokens)

        def released(codes: Ids, text: Sequence[int]) -> float:
            return released_score(self.model, self.format, codes, np.array(text), self.components.precision)

        return Captioning(self.components, self.format, load, self.image_codes, released)

    def inpainting(self, upper: TwoStageSuperResolution | None) -> Inpainting:
        """The inpainting task; ``upper`` upscales parts that are larger than the CogLM's images."""
        return Inpainting(self.components, self.format, lambda: self.text_to_image.engine, upper)

    def image_codes(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,): composited over white and resized to a square."""
        return square_codes(self.components, self.format, image)
