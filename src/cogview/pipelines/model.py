"""The interface of every model family: ``from_pretrained(name)``, then one method per task.

Every image carries its provenance (prompt, seed, index, settings, model and its hash), from which the same
image can be generated again, alone or in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cogview.checkpoints import hub
from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.components import Components
from cogview.errors import CogViewError
from cogview.pipelines.base import (
    AnyImage,
    Caption,
    GeneratedImage,
    ImageCallback,
    OutputType,
    ProgressParts,
    Ranked,
    check_captions,
    check_output,
    check_positive,
    collect,
    image_list,
    pipeline_class,
    text_for_each,
    text_list,
)
from cogview.pipelines.publishing import HubMixin
from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.config import ThreeRegionConfig
from cogview.types import Decoding, Precision, ProgressCallback, SamplingOptions, SamplingParams

if TYPE_CHECKING:
    from cogview.generation.editing import Crop
    from cogview.generation.fairness import FairnessTable
    from cogview.generation.holes import Order
    from cogview.pipelines.captioning import Captioning
    from cogview.pipelines.edit_inputs import AnyMask, Box
    from cogview.pipelines.inpainting import Inpainting
    from cogview.pipelines.super_resolution import TwoStageSuperResolution, WindowedSuperResolution
    from cogview.pipelines.text_to_image import TextToImage

DEFAULT = "pictogram"


class Pipeline(HubMixin):
    """A loaded model family; its transformers are read at first use. Created by :meth:`from_pretrained`.

    Arguments that all tasks share:

    - ``params``: sampling parameters (:class:`~cogview.types.SamplingParams`). They can also be passed one by
      one (``temperature=0.7``), which takes precedence. Parameters that are not set take their value from the
      style, then the task, then the family.
    - ``style``: one of :attr:`styles`, by its name or by its phrase.
    - ``negative_prompt``: the prompt that guidance moves away from; it needs a ``guidance_scale`` other
      than 1.
    - ``seed``: together with the index of a result it determines the result; default: a random one.
    - ``batch_size``: the largest batch; it does not change results.
    - ``progress``: called with (done, total) tokens of all steps. ``callback``: called with each result as
      soon as it is ready. An exception in either cancels the call.
    - ``output_type``: ``image`` (:class:`~cogview.pipelines.base.GeneratedImage`), ``pil``, ``np``, ``pt``
      or ``codes`` (:func:`~cogview.pipelines.base.as_output`).

    A wrong argument raises a CogViewError with the argument's name as ``field``; a task that the family does
    not support raises an UnsupportedTask, which names the families that support it.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self._check()

    def _check(self) -> None:
        """Raise CogViewError if this class cannot run the family."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        deterministic: bool = False,
        decoding: Decoding = "auto",
        lora: str | Path | None = None,
        lora_strength: float = 1.0,
        sparse: ThreeRegionConfig | None = None,
    ) -> Pipeline:
        """Load a family by name (from the package or the user's models), by its directory, or from a hub.

        Args:
            name: ``organisation/name`` is downloaded from the hub (extra ``hub``) into its client's cache and
                verified (:func:`cogview.checkpoints.hub.fetch`).
            revision: a branch, tag or commit of such a repository.
            token: access token for the repository.
            local_files_only: use the cache only, without network access.
            device: default: a GPU if there is one, else the CPU.
            precision: ``fp32``; ``bf16`` or ``fp16`` for half the memory, on GPUs and (bf16) on processors
                with bfloat16 instructions; ``int8`` for 8-bit weights on a CPU. Results differ slightly from
                those of ``fp32``.
            deterministic: exactly the same tokens in any batch, at some cost; otherwise rounding may change a
                token where two are nearly tied.
            decoding: ``sequential``, token by token; ``jacobi``, several tokens in one forward; ``auto``,
                the faster one for the batch. All generate the same tokens.
            lora: an adapter of the family's base model by name, or an adapter's directory (a run of
                `cogview train`).
            lora_strength: scale of the adapter; 0 is the model without it.
            sparse: generate with three-region sparse attention, as the released inference code of CogView
                does (appendix B); default: causal attention to all preceding tokens.

        Raises:
            CogViewError: there is no such model, or a file is missing, damaged or of another model.
        """
        if lora is None and lora_strength != 1.0:
            raise CogViewError("lora_strength needs an adapter; name one with lora", field="lora_strength")
        if revision or token or local_files_only:
            name = hub.fetch(str(name), revision, token=token, local_files_only=local_files_only)
        bundle = ModelBundle.find(name)
        adapter = None if lora is None else (bundle.adapter(lora), lora_strength)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind: type[Pipeline] = pipeline_class(bundle) if cls._opens_any else cls
        return kind(Components(bundle, device, precision, deterministic, adapter, sparse, decoding))

    _opens_any = True  # opens families of any kind, each with its own pipeline class

    @property
    def bundle(self) -> ModelBundle:
        """The family's directory and configuration."""
        return self.components.bundle

    @property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer: ``encode`` a text into tokens, ``decode`` tokens into a text."""
        return self.components.text_tokenizer

    @property
    def image_tokenizer(self) -> AnyImageTokenizer:
        """The image tokenizer: ``encode`` images (b, 3, height, width) into codes, ``decode`` codes."""
        return self.components.image_tokenizer

    @property
    def capabilities(self) -> frozenset[str]:
        """The tasks that the family supports, out of ``generate``, ``edit``, ``vary``, ``upscale``,
        ``caption``, ``score`` and ``rerank``."""
        return self.bundle.config.capabilities

    @property
    def styles(self) -> dict[str, dict[str, str]]:
        """The available styles: name to {language: phrase}."""
        return self.bundle.config.styles

    @property
    def model_hash(self) -> str:
        """SHA-256 over the family's weights and configurations."""
        return self.bundle.hash

    @property
    def text_to_image(self) -> TextToImage:
        """The text-to-image task; raises UnsupportedTask if the family does not support it."""
        raise self.bundle.config.unsupported("generate")

    @property
    def captioning(self) -> Captioning:
        """The captioning and scoring task; raises UnsupportedTask if the family does not support it."""
        raise self.bundle.config.unsupported("caption")

    @property
    def super_resolution(self) -> WindowedSuperResolution | TwoStageSuperResolution:
        """The super-resolution task; raises UnsupportedTask if the family does not support it."""
        raise self.bundle.config.unsupported("upscale")

    @property
    def two_stages(self) -> TwoStageSuperResolution:
        """Two-stage super-resolution (CogView2); raises UnsupportedTask if the family does not support it."""
        raise self.bundle.config.unsupported("upscale", ": it has no direct model")

    @property
    def _inpainting(self) -> Inpainting:
        """The inpainting task; raises UnsupportedTask if the family does not support it."""
        raise self.bundle.config.unsupported("edit")

    def _params(
        self, task: str, params: SamplingParams | None, style: str | None, negative: str | None, keywords: Any
    ) -> SamplingParams:
        """Complete sampling parameters of a call: keywords over ``params`` over style, task and family."""
        call = SamplingParams.given(**keywords)
        resolved = self.bundle.config.sampling(
            task, call if params is None else call.over_given(params), style
        )
        if negative is not None and resolved.guidance_scale == 1:
            raise CogViewError(
                "negative_prompt needs guidance; give a guidance_scale other than 1", field="negative_prompt"
            )
        return resolved

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        *,
        params: SamplingParams | None = None,
        style: str | None = None,
        negative_prompt: str | None = None,
        first: int = 0,
        best_of: int = 1,
        first_stage_only: bool = False,
        order: str | None = None,
        truncate: bool = False,
        fairness: str | Path | FairnessTable | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        callback: ImageCallback | None = None,
        output_type: OutputType = "image",
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Generate ``n`` images for each prompt, in the order of the prompts.

        Args:
            prompt: one or several, Chinese or English.
            first: index of the first image; to generate only image 3 of a prompt, ``n=1, first=3``.
            best_of: generate this many candidates per image and keep the ``n`` of a prompt with the lowest
                caption loss, the best first (CogView, section 3.2).
            first_stage_only: return the low-resolution images of a family with super-resolution stages.
            order: generation order of the iterative stage of such a family (a name of ``ORDERS``:
                ``released``, ``paper``, …).
            truncate: truncate a prompt that is too long; otherwise it is an error.
            fairness: a table of proportions (its file, or ``world``) by which words about people are added to
                prompts that lack them (CogView, appendix D). With ``best_of``, each image is then the best of
                its own candidates, which share their words.

        Raises:
            CogViewError: the prompt is empty or too long, the style is unknown, a parameter is out of range,
                or the family lacks a requested stage.
        """
        check_output(output_type)
        part, name = self.text_to_image, self.bundle.config.name
        upper: TwoStageSuperResolution | None = None
        if first_stage_only and order is not None:
            raise CogViewError("order belongs to the stage that first_stage_only skips; give one of them")
        if self.bundle.config.two_stage and not first_stage_only:
            upper = self.two_stages
            upper.check_order(order)
        elif not self.bundle.config.two_stage and (first_stage_only or order is not None):
            raise CogViewError(f"{name} generates in one step; leave out first_stage_only and order")
        texts = text_list(prompt)
        if truncate:
            texts = [part.truncated(text, style) for text in texts]
        resolved = self._params("generate", params, style, negative_prompt, sampling)
        requests = part.requests(
            texts, n, seed, style=style, first=first, best_of=best_of, fairness=fairness,
            negative_prompt=negative_prompt,
        )  # fmt: skip
        if upper is not None and not truncate:
            check_captions(self.components, [one.caption for one in requests], upper.format.text_limit)
        check_positive(batch_size=batch_size)
        generated = len(requests) * part.format.codes
        upscaled = 0 if upper is None else len(texts) * n * upper.format.codes * len(upper.stages)
        parts = ProgressParts(progress, generated + upscaled)
        report = progress if upper is None else parts.part(generated)
        images = part.run(requests, resolved, batch_size, report)
        if best_of > 1:
            captions = [one.caption for one in requests]
            images = self.captioning.best_of_each(captions, images, n if fairness is None else 1, best_of)
        if upper is not None:
            images = upper.upscale(images, order or "released", batch_size, parts)
        return collect(images, callback, output_type)

    def edit(
        self,
        image: AnyImage,
        prompt: str,
        mask: AnyMask | None = None,
        n: int = 1,
        seed: int | None = None,
        *,
        boxes: Box | Sequence[Box] = (),
        params: SamplingParams | None = None,
        style: str | None = None,
        negative_prompt: str | None = None,
        order: str = "together",
        crop: str = "auto",
        feather: int = 4,
        first_stage_only: bool = False,
        best_of: int = 1,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        callback: ImageCallback | None = None,
        output_type: OutputType = "image",
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Inpaint: generate the masked pixels again from a prompt; pixels outside the mask stay unchanged,
        bit for bit.

        Args:
            image: a file, a Pillow image, or a result of :meth:`generate`; of any size.
            prompt: describes the entire image, not only the masked part.
            mask: white (True) where the image is generated again; of the image's size.
            boxes: rectangles (left, top, right, bottom) in pixels, or as text, also in percent
                ("25%,0,75%,50%"); they are added to the mask.
            n: number of results.
            order: all masked regions ``together``, or ``one_by_one``, each conditioned on all other pixels;
                slower.
            crop: what the model sees: ``auto``: if the image is larger than the model's size, a crop of that
                size around the mask; ``tight``: a crop that is upscaled for small regions; ``whole``: the
                entire image.
            feather: width in pixels, inside the mask, over which old and new pixels are blended.
            first_stage_only: do not upscale the generated part, which is then less sharp.
            best_of: generate this many candidates per result and keep the ``n`` with the lowest caption loss.

        Raises:
            UnsupportedTask: the family has no CogLM.
            CogViewError: the mask has another size or is empty or full, a box is outside the image, or the
                prompt is too long.
        """
        check_output(output_type)
        check_positive(n=n, best_of=best_of)
        from cogview.pipelines.inpainting import EditRequest

        part, resolved = self._inpainting, self._params("edit", params, style, negative_prompt, sampling)
        images = part.edit(image, EditRequest(
            prompt=prompt, n=n * best_of, seed=seed, params=resolved, style=style, mask=mask, boxes=boxes,
            negative_prompt=negative_prompt, order=cast("Order", order), crop=cast("Crop", crop),
            feather=feather, first_stage_only=first_stage_only, batch_size=batch_size, progress=progress,
        ))  # fmt: skip
        if best_of > 1:
            images = iter(self.captioning.best_of(list(images), n))
        return collect(images, callback, output_type)

    def vary(
        self,
        image: AnyImage,
        prompt: str = "",
        n: int = 1,
        seed: int | None = None,
        *,
        mask_ratio: float = 0.5,
        params: SamplingParams | None = None,
        style: str | None = None,
        negative_prompt: str | None = None,
        first_stage_only: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        callback: ImageCallback | None = None,
        output_type: OutputType = "image",
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Variations: random patches that cover ``mask_ratio`` of the image are generated again; each result
        has its own patches.

        The model reads the image as a square and decodes every pixel of a result, which is then resized to
        the original's size. Results are upscaled if the family has super-resolution and the original is
        larger than the CogLM's images, unless ``first_stage_only``; ``batch_size`` applies to that stage.

        Raises:
            UnsupportedTask: the family has no CogLM.
        """
        check_output(output_type)
        resolved = self._params("vary", params, style, negative_prompt, sampling)
        from cogview.pipelines.inpainting import VaryRequest

        images = self._inpainting.vary(image, mask_ratio, VaryRequest(
            prompt=prompt, n=n, seed=seed, params=resolved, style=style, negative_prompt=negative_prompt,
            first_stage_only=first_stage_only, batch_size=batch_size, progress=progress,
        ))  # fmt: skip
        return collect(images, callback, output_type)

    def upscale(
        self,
        images: AnyImage | Sequence[AnyImage],
        prompt: str | Sequence[str] | None = None,
        seed: int | None = None,
        *,
        times: int | None = None,
        size: int | None = None,
        faithful: bool = True,
        detail: float = 0.6,
        order: str | None = None,
        params: SamplingParams | None = None,
        negative_prompt: str | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        callback: ImageCallback | None = None,
        output_type: OutputType = "image",
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Upscale images; the model generates the missing detail (CogView, section 3.1; CogView2, 3.3).

        Args:
            images: one or several files, Pillow images, or results of :meth:`generate`, whose codes and
                caption are used directly.
            prompt: describes the images, one for all or one per image; default: the one in the image's
                provenance, if any.
            seed: default: that of a generated image, else a random one.
            times: scale factor of the sides: 2 (the default) or 4 if the model's scale is 2; a family with
                two-stage super-resolution has a fixed scale.
            size: resize the input first, its shorter side to this many pixels; default: its own size, or the
                tokenizer's if that is larger. Without ``size`` results are ``times`` as large as the input.
            faithful: use the input pixels as a likelihood term, and correct results until they downscale to
                the input; False: generate from the codes alone.
            detail: with ``faithful``, the weight of the generated detail, from 0 (bicubic) to 1.
            order: generation order of the iterative stage (``released``, ``paper``, …); selects two-stage
                super-resolution in a family that also has a windowed model.

        Raises:
            UnsupportedTask: the family has no super-resolution.
            CogViewError: a file is not an image or too large, or a parameter is out of range.
        """
        check_output(output_type)
        items = image_list(images)
        check_positive(batch_size=batch_size)
        part = self.two_stages if order is not None and self.bundle.config.stages else self.super_resolution
        resolved = self._params("upscale", params, None, negative_prompt, sampling)
        from cogview.pipelines.super_resolution import UpscaleRequest

        request = UpscaleRequest(
            times=times, seed=seed, size=size, faithful=faithful, detail=detail, order=order,
            negative_prompt=negative_prompt,
        )  # fmt: skip
        texts = text_for_each(prompt, len(items))
        upscaled = part.run(items, texts, resolved, request, batch_size, progress)
        return collect(upscaled, callback, output_type)

    def caption(
        self,
        images: AnyImage | Sequence[AnyImage],
        n: int = 1,
        seed: int | None = None,
        *,
        language: str | None = None,
        beams: int | None = None,
        max_length: int | None = None,
        params: SamplingParams | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        callback: Callable[[list[Caption]], None] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[list[Caption]]:
        """Generate ``n`` captions for each image.

        Beam search returns the best captions first. With a seed or a sampling parameter, captions are sampled
        instead; caption i of a seed is always the same.

        Args:
            language: ``zh`` or ``en``; default: either (CogView), English (CogView2).
            beams: beam width, at least ``n`` (default: 4, or ``n``).
            max_length: largest number of text tokens; default: the model's limit.
            params: default: temperature 1, all tokens.

        Raises:
            UnsupportedTask: the family has no caption model.
            CogViewError: a file is not an image, or a parameter is out of range.
        """
        call = SamplingParams.given(**sampling)
        call = call if params is None else call.over_given(params)
        sampled = call if call.model_fields_set else None
        return self.captioning.caption(
            images, n, language, beams, seed, sampled, max_length, batch_size, progress, callback
        )

    def score(
        self,
        images: AnyImage | Sequence[AnyImage],
        texts: str | Sequence[str],
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> NDArray[np.float64]:
        """How well each text describes each image: the caption loss in nats per token; lower is better.

        Args:
            released: the score of the released code instead, higher is better: the sum of log p (CogView), or
                the mean of log p over the entire vocabulary (CogView2).

        Returns:
            (images, texts)

        Raises:
            UnsupportedTask: the family has no caption model.
            CogViewError: a file is not an image, or a text is empty or too long.
        """
        return self.captioning.score(images, texts, released, batch_size, progress)

    def rerank(
        self,
        prompt: str,
        images: Sequence[AnyImage],
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[Ranked]:
        """Rank images by how well ``prompt`` describes them, best first; arguments as for :meth:`score`."""
        return self.captioning.rerank(prompt, images, released, batch_size, progress)
