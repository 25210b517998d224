"""CogView2's composition: one CogLM generates, edits and captions (section 3.1); two further models upscale
its images (section 3.3)."""

from __future__ import annotations

from functools import cached_property

from cogview.checkpoints.bundle import BASE, DIRECT
from cogview.errors import CogViewError
from cogview.pipelines.captioning import Captioning
from cogview.pipelines.coglm import CogLM
from cogview.pipelines.inpainting import Inpainting
from cogview.pipelines.model import Pipeline
from cogview.pipelines.super_resolution import TwoStageSuperResolution
from cogview.pipelines.text_to_image import TextToImage


class CogView2(Pipeline):
    """A family whose base model is a CogLM. Created by :meth:`from_pretrained`."""

    _opens_any = False

    def _check(self) -> None:
        if self.bundle.role(BASE).sequences.kind != "coglm":
            raise self.bundle.config.unsupported("edit", f": its {BASE} model only generates")
        if self.components.sparse is not None:
            raise CogViewError(
                f"the model {self.bundle.config.name} is a CogLM, which does not support sparse attention; "
                "leave out sparse"
            )
        if self.components.lora is not None:
            self._coglm.model  # noqa: B018  (raises at once if the adapter does not fit)

    @cached_property
    def _coglm(self) -> CogLM:
        return CogLM(self.components)

    @property
    def text_to_image(self) -> TextToImage:
        return self._coglm.text_to_image

    @property
    def captioning(self) -> Captioning:
        return self._coglm.captioning

    @cached_property
    def _inpainting(self) -> Inpainting:
        return self._coglm.inpainting(self.two_stages if self.bundle.config.stages else None)

    @property
    def super_resolution(self) -> TwoStageSuperResolution:
        return self.two_stages

    @cached_property
    def two_stages(self) -> TwoStageSuperResolution:
        self.bundle.config.require("upscale", DIRECT)
        return TwoStageSuperResolution.of(self.components, self._coglm.image_codes)
