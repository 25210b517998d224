"""What is done to an image between the model and the answer: its background, its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cogview.pipelines.background import without_background
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.resizing import Size, fitted
from cogview.serving.openai.fields import Told, quality_told
from cogview.serving.schema import Output, Painted


@dataclass(frozen=True)
class Finish:
    """How images are finished.

    size: what they are resized to; transparent: whether their ground is removed; quality: as reported;
    ignored: fields of the request without an effect; identifier: of whoever asked, sent back; words: of the
    prompt that the model does not know (:meth:`cogview.serving.served.Served.unknown_words`).
    """

    size: Size | None = None
    transparent: bool = False
    quality: Told = "medium"
    ignored: Sequence[str] = field(default_factory=list)
    identifier: str | None = None
    words: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: Output, size: Size | None = None, ignored: Sequence[str] = ()) -> Finish:
        """What a request says."""
        if not isinstance(asked, Painted):
            return cls(size)
        clear = asked.background == "transparent"
        return cls(size, clear, quality_told(asked.quality), ignored, asked.identifier)

    def __call__(self, picture: GeneratedImage) -> GeneratedImage:
        """The finished image; what was done stands in its provenance."""
        image, done = picture.image, {}
        if self.transparent and (clear := without_background(image)) is not None:
            image, done["background"] = clear, "transparent"
        if self.size is not None and image.size != self.size:
            image = fitted(image, self.size)
            done["resized"] = "{}x{}".format(*self.size)
        if not done:
            return picture
        return dataclasses.replace(picture, image=image, settings=picture.settings | done)


def usage(text: int, drawn: int, read: int = 0) -> dict[str, object]:
    """Token counts as OpenAI has them: text and image tokens read, image tokens drawn."""
    return {
        "input_tokens": text + read,
        "input_tokens_details": {"text_tokens": text, "image_tokens": read},
        "output_tokens": drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
        "total_tokens": text + read + drawn,
    }
