"""Postprocessing of generated images: background removal and resizing; token counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cogview.pipelines.background import without_background
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.resizing import Size, fitted
from cogview.serving.openai.fields import ReportedQuality, reported_quality
from cogview.serving.schema import Output, PromptedRequest


@dataclass(frozen=True)
class Postprocess:
    """Postprocessing of a request's images, and what its response reports.

    size: to resize to; transparent: whether a uniform background is removed; quality: as reported; ignored:
    fields of the request without effect; identifier: the end user's, sent back; words: words of the prompt
    that the model does not know (:meth:`cogview.serving.served.ServedModel.unknown_words`).
    """

    size: Size | None = None
    transparent: bool = False
    quality: ReportedQuality = "medium"
    ignored: Sequence[str] = field(default_factory=list)
    identifier: str | None = None
    words: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Output, size: Size | None = None, ignored: Sequence[str] = ()) -> Postprocess:
        """The postprocessing of a request."""
        if not isinstance(request, PromptedRequest):
            return cls(size)
        transparent = request.background == "transparent"
        return cls(size, transparent, reported_quality(request.quality), ignored, request.identifier)

    def __call__(self, generated: GeneratedImage) -> GeneratedImage:
        """The postprocessed image; its settings record what was changed."""
        image, changes = generated.image, {}
        if self.transparent and (cut_out := without_background(image)) is not None:
            image, changes["background"] = cut_out, "transparent"
        if self.size is not None and image.size != self.size:
            image = fitted(image, self.size)
            changes["resized"] = "{}x{}".format(*self.size)
        if not changes:
            return generated
        return dataclasses.replace(generated, image=image, settings=generated.settings | changes)


def usage(text: int, generated: int, input_image: int = 0) -> dict[str, object]:
    """Token counts in OpenAI's format; text, generated, input_image: numbers of tokens."""
    return {
        "input_tokens": text + input_image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": input_image},
        "output_tokens": generated,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": generated},
        "total_tokens": text + input_image + generated,
    }
