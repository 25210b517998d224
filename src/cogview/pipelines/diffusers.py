"""A pipeline that is called as those of diffusers are, for code that was written for them.

The names of its arguments, its generators, its callback and its output are diffusers'; it does not need that
library. What has no meaning for an autoregressive model is named in a warning.
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
    """A text-to-image pipeline with diffusers' call. Made by :meth:`from_pretrained`, or around a model.

    Attributes:
        interrupt: set to True by a callback to stop; what is finished is returned.
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
            raise CogViewError(f"torch_dtype {torch_dtype}: there are {', '.join(map(str, PRECISIONS))}")
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
            height, width: what the model's own images are brought to; default: their own size.
            num_inference_steps: of no meaning here; a warning says so.
            generator: its first seed is the seed; a list has one for each image.
            callback_on_step_end: called with (pipeline, token, tokens left, {}) after each step.
            options: those of :meth:`cogview.pipelines.model.Pipeline.generate`, such as ``style``.
        """
        if num_inference_steps is not None:
            warnings.warn("num_inference_steps has no meaning here: each token is one step", stacklevel=2)
        if output_type not in OUTPUTS:
            raise CogViewError(f"output_type {output_type!r}: there are {', '.join(OUTPUTS)}")
        self.interrupt = False
        made: list[GeneratedImage] = []

        def progress(done: int, total: int) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, done - 1, total - done, {})
            if self.interrupt:
                raise _Interrupted

        common = {
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "progress": progress,
            "callback": made.append,
            **options,
        }
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        try:
            for texts, n, seed in _calls(prompts, num_images_per_prompt, generator):
                self.model.generate(texts, n, seed, **common)
        except _Interrupted:
            pass
        images = [_sized(one, width, height) for one in made]
        found = as_output(images, OUTPUTS[output_type])
        return ImagePipelineOutput(found) if return_dict else (found,)


def _calls(
    prompts: list[str], n: int, generator: torch.Generator | Sequence[torch.Generator] | None
) -> list[tuple[list[str], int, int | None]]:
    """(prompts, images of each, seed) of each call of the model."""
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


def _sized(made: GeneratedImage, width: int | None, height: int | None) -> GeneratedImage:
    size = width or height or made.image.width, height or width or made.image.height
    return made if made.image.size == size else dataclasses.replace(made, image=fitted(made.image, size))
