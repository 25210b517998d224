"""CogView's composition: a text-to-image transformer and, if the family has them, separate transformers for
captioning and super-resolution (section 3), or a CogLM, which also edits."""

from __future__ import annotations

from functools import cached_property

from cogview.checkpoints.bundle import BASE, CAPTION, COGLM, UPSCALING
from cogview.data.images import square
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.generation.caption_decoding import text_rows
from cogview.generation.engine import Engine
from cogview.generation.sparse import Sparse
from cogview.pipelines.base import AnyImage, GeneratedImage, open_rgb
from cogview.pipelines.captioning import Captioning
from cogview.pipelines.coglm import CogLM
from cogview.pipelines.engines import make_engine, read_next_tokens
from cogview.pipelines.inpainting import Inpainting
from cogview.pipelines.model import Pipeline
from cogview.pipelines.super_resolution import TwoStageSuperResolution, WindowedSuperResolution
from cogview.pipelines.text_to_image import TextToImage
from cogview.sequences import SequenceFormat, of_type
from cogview.tokenizers.loading import encode_image
from cogview.types import Ids


class CogView(Pipeline):
    """A family whose base model is a CogView. Created by :meth:`from_pretrained`, which opens any family."""

    def _check(self) -> None:
        for role, kind, does in (
            (BASE, "text_to_image", "generate images"),
            (CAPTION, "image_to_text", "caption images"),
            (COGLM, "coglm", "edit images"),
        ):
            if role in self.bundle.config.roles and self.bundle.role(role).sequences.kind != kind:
                other = self.bundle.role(role).sequences.kind
                raise CogViewError(f"the {role} role of {self.bundle.config.name} does not {does} ({other})")
        if self.components.lora is not None:
            self.text_to_image.engine  # noqa: B018  (raises at once if the adapter does not fit)

    def _format(self, role: str) -> SequenceFormat:
        format = of_type(self.bundle.role(role).sequences, SequenceFormat)
        assert format is not None
        return format

    @cached_property
    def text_to_image(self) -> TextToImage:
        if "generate" not in self.capabilities:
            raise self.bundle.config.unsupported("generate")
        codes = self.bundle.config.vocabulary.image_codes

        def load() -> Engine:
            model, sparse = self.components.transformer(BASE), self.components.sparse
            pattern = None if sparse is None else Sparse(sparse, codes)
            return make_engine(self.components, model, slice(0, codes), sparse=pattern)

        return TextToImage(self.components, self._format(BASE), load)

    @cached_property
    def _coglm(self) -> CogLM:
        self.bundle.config.require("edit", "CogLM")
        return CogLM(self.components, COGLM)

    @cached_property
    def _inpainting(self) -> Inpainting:
        return self._coglm.inpainting(self.two_stages if self.bundle.config.stages else None)

    @cached_property
    def captioning(self) -> Captioning:
        self.bundle.config.require("caption", CAPTION)
        if CAPTION not in self.bundle.config.roles:
            return self._coglm.captioning
        format, rows = self._format(CAPTION), self.bundle.check(CAPTION).vocab_size

        def load() -> Engine:
            model = self.components.transformer(CAPTION)
            text = text_rows(format.vocabulary, rows)
            next_tokens = read_next_tokens(self.components, CAPTION)
            return make_engine(self.components, model, text, next_tokens=next_tokens)

        return Captioning(self.components, format, load, self._image_codes)

    def _image_codes(self, image: AnyImage) -> Ids:
        """Codes of an image for the other models: the centre square, resized as in their training."""
        pixels = image.image if isinstance(image, GeneratedImage) else open_rgb(image)[0]
        has_captions = CAPTION in self.bundle.config.roles
        released = has_captions and self.bundle.check(CAPTION).numerics == "released"
        size = self.image_tokenizer.image_size
        preprocessing = Preprocessing(size=size, resample="bilinear" if released else "box")
        return encode_image(self.image_tokenizer, square(pixels, preprocessing))

    @cached_property
    def super_resolution(self) -> WindowedSuperResolution | TwoStageSuperResolution:
        self.bundle.config.require("upscale", UPSCALING)
        if UPSCALING not in self.bundle.config.roles:
            return self.two_stages
        sequences = self.bundle.role(UPSCALING).sequences
        if sequences.kind != "super_resolution":
            name = self.bundle.config.name
            raise CogViewError(f"the {UPSCALING} role of {name} does not upscale images ({sequences.kind})")
        return WindowedSuperResolution(self.components, self._format(UPSCALING))

    @cached_property
    def two_stages(self) -> TwoStageSuperResolution:
        if not self.bundle.config.stages:
            return super().two_stages
        encode = self._coglm.image_codes if self.bundle.config.coglm else self._image_codes
        return TwoStageSuperResolution.of(self.components, encode)
