"""What every model family offers: ``from_pretrained(name)``, then one method for each task.

Every image carries what made it (prompt, seed, index, settings, model and its hash), and the same facts make
the same image again, alone or in any batch.
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
    at_least_one,
    check_captions,
    check_output,
    collected,
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
    """A model family in memory, its transformers read at first use. Made by :meth:`from_pretrained`.

    Arguments that all tasks share:

    - ``params``, or its fields one by one (``temperature=0.7``), which come first: how tokens are sampled
      (:class:`~cogview.types.SamplingParams`). What is left open takes its value from the style, then the
      task, then the family.
    - ``style``: one of :attr:`styles`, by its name or by its words.
    - ``negative_prompt``: what guidance moves away from; it needs a ``guidance_scale`` other than 1.
    - ``seed``: with the index of the result it decides the result; default: a new one.
    - ``batch_size``: the most to compute at a time; it does not change results.
    - ``progress``: called with (done, total) tokens of all steps. ``callback``: called with each result as
      soon as it is ready. What either raises cancels the call.
    - ``output_type``: ``image`` (:class:`~cogview.pipelines.base.GeneratedImage`), ``pil``, ``np``, ``pt``
      or ``codes`` (:func:`~cogview.pipelines.base.as_output`).

    A wrong argument is a CogViewError with its ``field``; a task that the family does not have an
    UnsupportedTask, which names the families that have it.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self._check()

    def _check(self) -> None:
        """CogViewError where the family is not of this kind."""
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
        """Open a family by name (in the package or the user's models), by its directory, or from a hub.

        Args:
            name: ``organisation/name`` is fetched from the hub (extra ``hub``), into its client's cache, and
                checked (:func:`cogview.checkpoints.hub.fetch`).
            revision: a branch, tag or commit of such a repository; token: to read it with; local_files_only:
                take it from the cache and ask nobody.
            device: where to compute; a GPU if there is one, else the CPU.
            precision: ``fp32``; ``bf16`` or ``fp16`` for half the memory, for GPUs and (bf16) processors that
                have instructions for it; ``int8`` for weights of a byte on a CPU. All but the first are
                slightly different.
            deterministic: exactly the same tokens in any batch, at some cost; otherwise rounding may change a
                token where two were nearly tied.
            decoding: ``sequential``, token by token; ``jacobi``, several tokens in one forward; ``auto``,
                what is faster for the batch. The tokens are the same, as in any batch.
            lora: one of the family's adapters of its base model by name, or the directory of one (a run of
                `cogview train`).
            lora_strength: how much of it; 0 is the model itself.
            sparse: generate with three-region sparse attention, the released inference form of CogView
                (appendix B); default: every token sees all before it.

        Raises:
            CogViewError: no such model, or a file is missing, damaged or foreign.
        """
        if lora is None and lora_strength != 1.0:
            raise CogViewError("lora_strength is of an adapter; name one with lora", field="lora_strength")
        if revision or token or local_files_only:
            name = hub.fetch(str(name), revision, token=token, local_files_only=local_files_only)
        bundle = ModelBundle.find(name)
        adapter = None if lora is None else (bundle.adapter(lora), lora_strength)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind: type[Pipeline] = pipeline_class(bundle) if cls._opens_any else cls
        return kind(Components(bundle, device, precision, deterministic, adapter, sparse, decoding))

    _opens_any = True  # families of any kind, each with the class for it

    @property
    def bundle(self) -> ModelBundle:
        """The family's directory and configuration."""
        return self.components.bundle

    @property
    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer: ``encode`` a text into tokens, ``decode`` them."""
        return self.components.text_tokenizer

    @property
    def image_tokenizer(self) -> AnyImageTokenizer:
        """The image tokenizer: ``encode`` images (b, 3, height, width) into codes, ``decode`` them."""
        return self.components.image_tokenizer

    @property
    def capabilities(self) -> frozenset[str]:
        """The tasks that the family has: ``generate``, ``edit``, ``vary``, ``upscale``, ``caption``,
        ``score`` and ``rerank``, as far as it has them."""
        return self.bundle.config.capabilities

    @property
    def styles(self) -> dict[str, dict[str, str]]:
        """The styles to choose from: name to {language: phrase}."""
        return self.bundle.config.styles

    @property
    def model_hash(self) -> str:
        """SHA-256 over the family's weights and configurations."""
        return self.bundle.hash

    @property
    def text_to_image(self) -> TextToImage:
        """The part that generates; UnsupportedTask where the family has none."""
        raise self.bundle.config.unsupported("generate")

    @property
    def captioning(self) -> Captioning:
        """The part that captions and scores; UnsupportedTask where the family has none."""
        raise self.bundle.config.unsupported("caption")

    @property
    def super_resolution(self) -> WindowedSuperResolution | TwoStageSuperResolution:
        """The part that upscales; UnsupportedTask where the family has none."""
        raise self.bundle.config.unsupported("upscale")

    @property
    def two_stages(self) -> TwoStageSuperResolution:
        """The part that upscales in two stages (CogView2); UnsupportedTask where the family has none."""
        raise self.bundle.config.unsupported("upscale", ": it has no direct model")

    @property
    def _inpainting(self) -> Inpainting:
        """The part that edits; UnsupportedTask where the family has none."""
        raise self.bundle.config.unsupported("edit")

    def _params(
        self, task: str, params: SamplingParams | None, style: str | None, negative: str | None, given: Any
    ) -> SamplingParams:
        """Complete parameters of a task; the one place where those of a call are resolved."""
        call = SamplingParams.given(**given)
        found = self.bundle.config.sampling(task, call if params is None else call.over_given(params), style)
        if negative is not None and found.guidance_scale == 1:
            raise CogViewError(
                "negative_prompt needs guidance; give a guidance_scale other than 1", field="negative_prompt"
            )
        return found

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
            prompt: Chinese or English, one or several.
            first: index of the first image; to generate image 3 of a prompt alone, ``n=1, first=3``.
            best_of: generate this many for each image wanted and keep the n of a prompt that the family's
                caption model finds the prompt describes best, the best first (CogView, section 3.2).
            first_stage_only: of a family that upscales what it generates, the low-resolution images.
            order: of the iterative stage of such a family (a name of ``ORDERS``: ``released``, ``paper``, …).
            truncate: cut a prompt that is too long; otherwise it is an error.
            fairness: a table of proportions (its file, or ``world``) by which words about people are added to
                prompts that lack them (CogView, appendix D). With ``best_of``, each image is then the best of
                its own candidates, which share their words.

        Raises:
            CogViewError: an empty or too long prompt, an unknown style, a parameter out of range, a stage
                that the family does not have.
        """
        check_output(output_type)
        part, name = self.text_to_image, self.bundle.config.name
        upper: TwoStageSuperResolution | None = None
        if first_stage_only and order is not None:
            raise CogViewError("order is of the step that first_stage_only leaves out; give one of them")
        if self.bundle.config.two_stage and not first_stage_only:
            upper = self.two_stages
            upper.check_order(order)
        elif not self.bundle.config.two_stage and (first_stage_only or order is not None):
            raise CogViewError(f"{name} draws in one step; leave out first_stage_only and order")
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
        at_least_one(batch_size=batch_size)
        generated = len(requests) * part.format.codes
        large = 0 if upper is None else len(texts) * n * upper.format.codes * len(upper.stages)
        parts = ProgressParts(progress, generated + large)
        report = progress if upper is None else parts.part(generated)
        made = part.run(requests, resolved, batch_size, report)
        if best_of > 1:
            captions = [one.caption for one in requests]
            made = self.captioning.best_of_each(captions, made, n if fairness is None else 1, best_of)
        if upper is not None:
            made = upper.enlarge(made, order or "released", batch_size, parts)
        return collected(made, callback, output_type)

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
        """Inpaint: generate what is masked again, by a sentence; pixels outside stay as they are, bit for
        bit.

        Args:
            image: a file, a Pillow image, or what :meth:`generate` returned; of any size.
            prompt: what the whole image shall show.
            mask: white (True) where the image is generated again; of the image's size.
            boxes: rectangles (left, top, right, bottom) in pixels, or as text, also in percent
                ("25%,0,75%,50%"); with a mask, both count.
            n: how many results.
            order: all masked regions ``together``, or ``one_by_one`` with all else in view; slower.
            crop: what the model sees: ``auto`` a part at the model's size around the mask where the image is
                larger, ``tight`` an enlarged one for small regions too, ``whole`` the image.
            feather: pixels inside the mask over which the new ones set in.
            first_stage_only: do not upscale what is generated; what is pasted is then less sharp.
            best_of: generate this many for each result and keep the n that the prompt describes best.

        Raises:
            UnsupportedTask: the family has no CogLM. CogViewError: a mask of another size, empty or full, a
                box outside, a prompt too long.
        """
        check_output(output_type)
        at_least_one(n=n, best_of=best_of)
        from cogview.pipelines.inpainting import EditRequest

        part, resolved = self._inpainting, self._params("edit", params, style, negative_prompt, sampling)
        made = part.edit(image, EditRequest(
            prompt=prompt, n=n * best_of, seed=seed, params=resolved, style=style, mask=mask, boxes=boxes,
            negative_prompt=negative_prompt, order=cast("Order", order), crop=cast("Crop", crop),
            feather=feather, first_stage_only=first_stage_only, batch_size=batch_size, progress=progress,
        ))  # fmt: skip
        if best_of > 1:
            made = iter(self.captioning.best_of(list(made), n))
        return collected(made, callback, output_type)

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
        """Variations: patches at random, another ``mask_ratio`` of the image each time, are generated again.

        The results are wholly the model's: as large as the original, but squares of the model's sharpness (of
        super-resolution where the family has it, the original is larger than what the CogLM generates, and
        unless ``first_stage_only``). Each has patches of its own; ``batch_size`` is the most to upscale at a
        time.

        Raises:
            UnsupportedTask: the family has no CogLM.
        """
        check_output(output_type)
        resolved = self._params("vary", params, style, negative_prompt, sampling)
        from cogview.pipelines.inpainting import VaryRequest

        made = self._inpainting.vary(image, mask_ratio, VaryRequest(
            prompt=prompt, n=n, seed=seed, params=resolved, style=style, negative_prompt=negative_prompt,
            first_stage_only=first_stage_only, batch_size=batch_size, progress=progress,
        ))  # fmt: skip
        return collected(made, callback, output_type)

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
        """Upscale images, generating the detail that they do not show (CogView, section 3.1; CogView2, 3.3).

        Args:
            images: one or several; files, Pillow images, or what :meth:`generate` returned, whose codes and
                caption are then used as they are.
            prompt: what they show, one for all or one each; default: the provenance of a file made here.
            seed: default: a generated image's own, else a new one.
            times: how much longer sides get, 2 (the default) or 4 where the model doubles sides; of a family
                whose super-resolution has two stages, its own scale.
            size: read an image with its shorter side of this many pixels; default: at its own size, or
                enlarged to the tokenizer's if that is larger. Without it results are ``times`` as large.
            faithful: use the input's pixels as a likelihood term, and correct results until they are the
                input again when shrunk; False: what the model generates from codes alone.
            detail: then how much of what was generated to show, from 0 (a bicubic enlargement) to 1.
            order: of the iterative stage, where there is one (``released``, ``paper``, …); with it a family
                that also upscales window by window uses its two stages.

        Raises:
            UnsupportedTask: the family has no super-resolution. CogViewError: a file that is no image, one
                too large, or parameters out of range.
        """
        check_output(output_type)
        items = image_list(images)
        at_least_one(batch_size=batch_size)
        part = self.two_stages if order is not None and self.bundle.config.stages else self.super_resolution
        resolved = self._params("upscale", params, None, negative_prompt, sampling)
        from cogview.pipelines.super_resolution import UpscaleRequest

        asked = UpscaleRequest(
            times=times, seed=seed, size=size, faithful=faithful, detail=detail, order=order,
            negative_prompt=negative_prompt,
        )  # fmt: skip
        texts = text_for_each(prompt, len(items))
        made = part.run(items, texts, resolved, asked, batch_size, progress)
        return collected(made, callback, output_type)

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
        """Describe images, ``n`` captions each.

        Beam search gives the best captions first; with a seed or a sampling parameter captions are sampled,
        and caption i of a seed is always the same one.

        Args:
            language: ``zh`` or ``en``; default: whichever comes (CogView), English (CogView2).
            beams: followed at once, at least n (default: 4, or n).
            max_length: the most text tokens; default: as many as the model reads.
            params: default: temperature 1, all tokens.

        Raises:
            UnsupportedTask: the family has no caption model. CogViewError: a file that is no image,
                parameters out of range.
        """
        call = SamplingParams.given(**sampling)
        call = call if params is None else call.over_given(params)
        chosen = call if call.model_fields_set else None
        return self.captioning.caption(
            images, n, language, beams, seed, chosen, max_length, batch_size, progress, callback
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
        """How well each text describes each image: the caption loss in nats a token, the lower the better.

        Args:
            released: as the released code has it, the higher the better: the sum of log p (CogView), or the
                mean of log p among all tokens (CogView2).

        Returns:
            (images, texts)

        Raises:
            UnsupportedTask: the family has no caption model. CogViewError: a file that is no image, an empty
                or too long text.
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
        """Images by how well ``prompt`` describes them, the best first; arguments as for :meth:`score`."""
        return self.captioning.rerank(prompt, images, released, batch_size, progress)
