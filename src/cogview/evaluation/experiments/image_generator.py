"""A model family as what the experiments ask for: it draws, draws and ranks, describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview._moved import renamed
from cogview.checkpoints.bundle import find
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
    """All that images depend on beside prompts, seed and settings, as caches of images are keyed by it.

    weights: the family's hash; precision: fp32 is not named, as most results are of it; small: of a family
    that enlarges, the images of the first step.
    """
    ways = ([] if precision == "fp32" else [precision]) + (["small"] if small else [])
    return " ".join([weights, *ways])


class ModelGenerator:
    """The model family ``model`` (looked up as ``generate`` does) for the experiments, read at first use.

    It generates single images (``attributes.py``), candidates (``best_of.py``), edits (``editing.py``) and
    captions (``captions.py``).
    small: of a family that enlarges what it draws, the images of the first step.
    """

    def __init__(
        self, model: str, precision: Precision = "fp32", small: bool = False, device: str | None = None
    ) -> None:
        self.directory, self.device = find(model), device
        self.name = self.directory.name
        self.precision = precision
        self._enlarges = "direct" in load_json(self.directory / "family.json").get("roles", {})
        self.small = small and self._enlarges

    @cached_property
    def family(self) -> Pipeline:
        """The models."""
        from cogview.pipelines.model import Pipeline

        return Pipeline.from_pretrained(self.directory, device=self.device, precision=self.precision)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the family's weights and configurations, and how it computes (:func:`fingerprint`)."""
        return fingerprint(model_hash(self.directory), self.precision, self.small)

    @property
    def image_tokenizer(self) -> Path:
        """The directory of the family's image tokenizer."""
        family = load_json(self.directory / "family.json")
        return self.directory / str(family.get("image_tokenizer", "image_tokenizer"))

    @property
    def image_size(self) -> int:
        """Side of its images, in pixels."""
        return self.family.image_tokenizer.image_size

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        """One image for each prompt."""
        return [picture.image for picture in self._drawn(list(prompts), 1, seed, sampling, self.small)]

    def _drawn(
        self, prompts: list[str], n: int, seed: int, sampling: Sampling, small: bool, **more: Any
    ) -> list[GeneratedImage]:
        """``n`` images for each prompt (``best_of`` among ``sampling``), of the first step if ``small``."""
        given: dict[str, Any] = dict(sampling)
        more |= {"best_of": given.pop("best_of")} if "best_of" in given else {}
        return self.family.generate(
            prompts, n, seed, params=SamplingParams.given(**given), first_stage_only=small, **more
        )

    def series(
        self, prompt: str, n: int, first: int, seed: int, sampling: Sampling, table: FairnessTable | None
    ) -> list[Image.Image]:
        """``n`` images of a prompt from index ``first`` on, worded by ``table`` (``fairness.py``)."""
        made = self._drawn([prompt], n, seed, sampling, self.small, first=first, fairness=table)
        return [picture.image for picture in made]

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Sampling
    ) -> tuple[list[Image.Image], list[float]]:
        """``n`` images of a prompt and their caption losses; CogViewError before any where it has none."""
        self.family.captioning.encode(prompt)
        pictures = self._drawn([prompt], n, seed, sampling, self._enlarges)
        losses = self.family.score(pictures, pictures[0].caption)[:, 0]
        return [picture.image for picture in pictures], losses.tolist()

    def edit(
        self, picture: Image.Image, prompt: str, mask: NDArray[np.bool_], seed: int, plan: EditingPlan
    ) -> Image.Image:
        """The image with what is masked generated again (``editing.py``)."""
        [edited] = self.family.edit(
            picture,
            prompt,
            mask=mask,
            seed=seed,
            order=plan.order,
            best_of=plan.best_of,
            params=SamplingParams.given(**plan.sampling),
            first_stage_only=self.small,
        )
        return edited.image

    def describe(self, pictures: NDArray[np.uint8], language: str, plan: CaptionPlan) -> list[str]:
        """A caption of each image (n, size, size, 3)."""
        ways: Any = {"seed": plan.seed, **plan.sampling} if plan.sampling else {"beams": plan.beams}
        images = [Image.fromarray(picture) for picture in pictures]
        return [own[0].text for own in self.family.caption(images, language=language, **ways)]

    def losses(self, pictures: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.float64]:
        """The caption loss (n,) of each image with its text."""
        pairs = zip(pictures, texts, strict=True)
        return np.array([self.family.score(Image.fromarray(own), text)[0, 0] for own, text in pairs])


__getattr__ = renamed(__name__, ModelDrawer="ModelGenerator")
