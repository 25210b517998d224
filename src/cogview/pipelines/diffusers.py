"""A pipeline with the calling convention of diffusers, for code that was written for that library.

Arguments, generators, callback and output follow diffusers, which need not be installed. Arguments without a
meaning for an autoregressive model raise a warning.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage, OutputType, as_output
from cogview.pipelines.model import Pipeline
from cogview.pipelines.resizing import fitted
from cogview.types import MAX_SEED, Precision

StepCallback = Callable[["DiffusersPipeline", int, int, dict[str, Any]], dict[str, Any] | None]
PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
OUTPUTS: dict[str, OutputType] = {"pil": "pil", "np": "np", "pt": "pt", "latent": "codes"}


@dataclass
class ImagePipelineOutput:
    """images: Pillow images, or as ``output_type`` says."""

    images: list[Image.Image] | Any


class _Interrupted(Exception):
    pass


class DiffusersPipeline:
    """A text-to-image pipeline that is called like those of diffusers.

    Created by :meth:`from_pretrained`, or from a model.

    Attributes:
        interrupt: a callback sets it to True to stop; the finished images are returned.
    """

    def __init__(self, model: Pipeline) -> None:
        self.model, self.interrupt = model, False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path = "pictogram",
        *,
        torch_dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> DiffusersPipeline:
        """Open a family; ``options`` are those of :meth:`.Pipeline.from_pretrained`."""
        if torch_dtype not in PRECISIONS:
            raise CogViewError(f"torch_dtype {torch_dtype}: use one of {', '.join(map(str, PRECISIONS))}")
        return cls(
            Pipeline.from_pretrained(
                pretrained_model_name_or_path, precision=PRECISIONS[torch_dtype], **options
            )
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            height, width: images are resized to this size; default: the model's size.
            num_inference_steps: ignored, with a warning.
            generator: its initial seed is the seed; a list has one generator per image.
            callback_on_step_end: called with (pipeline, token, tokens left, {}) after each step.
            options: those of :meth:`cogview.pipelines.model.Pipeline.generate`, such as ``style``.
        """
        if num_inference_steps is not None:
            warnings.warn("num_inference_steps has no meaning here: each token is one step", stacklevel=2)
        if output_type not in OUTPUTS:
            raise CogViewError(f"output_type {output_type!r}: use one of {', '.join(OUTPUTS)}")
        self.interrupt = False
        generated: list[GeneratedImage] = []

        def progress(done: int, total: int) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, done - 1, total - done, {})
            if self.interrupt:
                raise _Interrupted

        common = {
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "progress": progress,
            "callback": generated.append,
            **options,
        }
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        try:
            for texts, n, seed in _calls(prompts, num_images_per_prompt, generator):
                self.model.generate(texts, n, seed, **common)
        except _Interrupted:
            pass
        images = [_resized(one, width, height) for one in generated]
        output = as_output(images, OUTPUTS[output_type])
        return ImagePipelineOutput(output) if return_dict else (output,)


def _calls(
    prompts: list[str], n: int, generator: torch.Generator | Sequence[torch.Generator] | None
) -> list[tuple[list[str], int, int | None]]:
    """(prompts, images per prompt, seed) of each call of the model."""
    if generator is None or isinstance(generator, torch.Generator):
        seed = None if generator is None else _seed(generator)
        return [(prompts, n, seed)]
    if len(generator) != len(prompts) * n:
        raise CogViewError(
            f"there are {len(generator)} generators for {len(prompts) * n} images", field="seed"
        )
    each = [prompt for prompt in prompts for _ in range(n)]
    return [([text], 1, _seed(one)) for text, one in zip(each, generator, strict=True)]


def _seed(generator: torch.Generator) -> int:
    return generator.initial_seed() & MAX_SEED


def _resized(one: GeneratedImage, width: int | None, height: int | None) -> GeneratedImage:
    size = width or height or one.image.width, height or width or one.image.height
    return one if one.image.size == size else dataclasses.replace(one, image=fitted(one.image, size))
