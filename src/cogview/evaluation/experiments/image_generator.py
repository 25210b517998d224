"""Adapter of a model family to the experiments' interfaces: generation, ranking, editing, captioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview._moved import renamed
from cogview.checkpoints.bundle import ModelBundle, find
from cogview.checkpoints.provenance import model_hash
from cogview.config import load_json
from cogview.types import Precision, SamplingParams

if TYPE_CHECKING:
    from cogview.evaluation.plans import CaptionPlan, EditingPlan
    from cogview.generation.fairness import FairnessTable
    from cogview.pipelines.base import GeneratedImage
    from cogview.pipelines.model import Pipeline

Sampling = Mapping[str, int | float | str]


def fingerprint(weights: str, precision: Precision, small: bool = False) -> str:
    """Everything that determines images besides prompts, seed and settings; the key of cached images.

    weights: the family's hash; precision: fp32 is the default and left out; small: images of the first stage
    of a two-stage family.
    """
    variants = ([] if precision == "fp32" else [precision]) + (["small"] if small else [])
    return " ".join([weights, *variants])


class ModelGenerator:
    """The model family ``model`` (resolved as by ``cogview generate``), loaded at first use.

    It generates single images (``attributes.py``), candidates (``best_of.py``), edits (``edits.py``) and
    captions (``captions.py``).
    small: use the images of the first stage of a two-stage family.
    """

    def __init__(
        self, model: str, precision: Precision = "fp32", small: bool = False, device: str | None = None
    ) -> None:
        self.directory, self.device = find(model), device
        self.name = self.directory.name
        self.precision = precision
        self._two_stage = ModelBundle(self.directory).config.two_stage
        self.small = small and self._two_stage

    @cached_property
    def family(self) -> Pipeline:
        """The pipeline."""
        from cogview.pipelines.model import Pipeline

        return Pipeline.from_pretrained(self.directory, device=self.device, precision=self.precision)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the family's weights and configurations, and the variant (see :func:`fingerprint`)."""
        return fingerprint(model_hash(self.directory), self.precision, self.small)

    @property
    def image_tokenizer(self) -> Path:
        """The directory of the family's image tokenizer."""
        family = load_json(self.directory / "family.json")
        return self.directory / str(family.get("image_tokenizer", "image_tokenizer"))

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.family.image_tokenizer.image_size

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """One image for each prompt."""
        return [output.image for output in self._generate(list(prompts), 1, seed, sampling, self.small)]

    def _generate(
        self, prompts: list[str], n: int, seed: int, sampling: Sampling, small: bool, **more: Any
    ) -> list[GeneratedImage]:
        """``n`` images per prompt (``sampling`` may hold ``best_of``), of the first stage if ``small``."""
        params: dict[str, Any] = dict(sampling)
        more |= {"best_of": params.pop("best_of")} if "best_of" in params else {}
        return self.family.generate(
            prompts, n, seed, params=SamplingParams.given(**params), first_stage_only=small, **more
        )

    def series(
        self, prompt: str, n: int, first: int, seed: int, sampling: Sampling, table: FairnessTable | None
    ) -> list[Image.Image]:
        """``n`` images of a prompt from index ``first`` on, with words replaced by ``table``."""
        outputs = self._generate([prompt], n, seed, sampling, self.small, first=first, fairness=table)
        return [output.image for output in outputs]

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Sampling
    ) -> tuple[list[Image.Image], list[float]]:
        """``n`` images of a prompt and their caption losses; CogViewError if the family cannot score them."""
        self.family.captioning.encode(prompt)  # fails before images are generated
        outputs = self._generate([prompt], n, seed, sampling, self._two_stage)
        losses = self.family.score(outputs, outputs[0].caption)[:, 0]
        return [output.image for output in outputs], losses.tolist()

    def edit(
        self, image: Image.Image, prompt: str, mask: NDArray[np.bool_], seed: int, plan: EditingPlan
    ) -> Image.Image:
        """The image with its masked region generated again."""
        [edited] = self.family.edit(
            image,
            prompt,
            mask=mask,
            seed=seed,
            order=plan.order,
            best_of=plan.best_of,
            params=SamplingParams.given(**plan.sampling),
            first_stage_only=self.small,
        )
        return edited.image

    def caption(self, pixels: NDArray[np.uint8], language: str, plan: CaptionPlan) -> list[str]:
        """A caption of each image (n, size, size, 3)."""
        params: Any = {"seed": plan.seed, **plan.sampling} if plan.sampling else {"beams": plan.beams}
        images = [Image.fromarray(image) for image in pixels]
        return [captions[0].text for captions in self.family.caption(images, language=language, **params)]

    def losses(self, pixels: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.float64]:
        """The caption loss (n,) of each image with its text."""
        pairs = zip(pixels, texts, strict=True)
        return np.array([self.family.score(Image.fromarray(image), text)[0, 0] for image, text in pairs])


__getattr__ = renamed(__name__, ModelDrawer="ModelGenerator")
