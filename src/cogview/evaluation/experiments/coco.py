"""The MS-COCO evaluation of both papers: 30,000 captions, best-of-n images, FID-k at 256 pixels.

CogView (section 4.1): 30,000 captions of the validation set, machine-translated into Chinese; for each the
best of 60 images by caption loss, with the contrast raised by 1.5; FID and Inception Score after Gaussian
blurs of both sets, and the mean caption loss of 5,000 images. CogView2 (section 5.2): at most one caption per
image, the best of 16, unchanged contrast, images downscaled to 256 pixels. Captions and images are the user's
copy.

A run can be interrupted, and several processes can divide it: selected images are stored as files, each with
its provenance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ImageEnhance
from pydantic import ConfigDict

from cogview import files
from cogview.checkpoints.provenance import read as read_provenance
from cogview.config import Config, validate
from cogview.data.sources import command_translator
from cogview.errors import CogViewError
from cogview.evaluation.metrics.fid import (
    DistributionPlan,
    DistributionReport,
    Extractor,
    Manifest,
    Value,
    compare_pictures,
)
from cogview.evaluation.metrics.image_sets import ImageSet
from cogview.evaluation.metrics.intervals import mean_figure
from cogview.evaluation.plans import BLURS, CocoPlan
from cogview.evaluation.sample_store import WHOLE, Progress, SampleStore
from cogview.files import write_file
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.model import Pipeline
from cogview.types import SamplingParams

MAX_BYTES = 1 << 30  # maximum size of a captions file; COCO's have 30 to 100 MB
TOGETHER = 256  # captions per call of the translator


class CocoManifest(Manifest):
    """Everything that determines the figures, including the selection and translation of captions."""

    coco: CocoPlan
    captions: str
    selection: str


class CocoReport(DistributionReport):
    """The figures of one model on COCO, including ``CapLoss``."""

    kind: Literal["coco"] = "coco"
    manifest: CocoManifest
    facts: dict[str, str | int | float]


class _Foreign(Config):
    """A part of COCO's format; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Image(_Foreign):
    id: int
    file_name: str


class _Annotation(_Foreign):
    id: int
    image_id: int
    caption: str


class _Captions(_Foreign):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]


@dataclass(frozen=True)
class CocoCaption:
    """One caption, its id in the captions file, and the file of its image."""

    number: int
    caption: str
    image: Path


@dataclass(frozen=True)
class CocoFiles:
    """The user's copy: a file of captions in COCO's format, and the folder of its photographs."""

    captions: Path
    images: Path

    def select(self, plan: CocoPlan) -> list[CocoCaption]:
        """The captions that :func:`select` selects."""
        return select(read_captions(self.captions, self.images), plan)


def read_captions(path: Path, images: Path) -> list[CocoCaption]:
    """Read all captions of a file in COCO's format, sorted by id; the images are in the folder ``images``.

    Raises:
        CogViewError: the file has another format, or a caption's image is not listed.
    """
    content = validate(_Captions, files.load_json(path, MAX_BYTES), f"{path}: not captions in COCO's format")
    names = {image.id: image.file_name for image in content.images}
    unlisted = next((a for a in content.annotations if a.image_id not in names), None)
    if unlisted is not None:
        raise CogViewError(f"{path}: caption {unlisted.id} is of the unlisted image {unlisted.image_id}")
    captions = [
        CocoCaption(a.id, " ".join(a.caption.split()), images / names[a.image_id])
        for a in content.annotations
    ]
    return sorted((c for c in captions if c.caption), key=lambda caption: caption.number)


def select(captions: Sequence[CocoCaption], plan: CocoPlan) -> list[CocoCaption]:
    """Sample ``plan.count`` captions at random, in random order.

    Raises:
        CogViewError: there are fewer, or an image is missing.
    """
    order = np.random.default_rng(plan.seed).permutation(len(captions)).tolist()
    selected = [captions[i] for i in order]
    if plan.distinct:
        first: dict[Path, CocoCaption] = {}
        for caption in selected:
            first.setdefault(caption.image, caption)
        selected = list(first.values())
    if len(selected) < plan.count:
        kind = "captions of different images" if plan.distinct else "captions"
        raise CogViewError(f"there are {len(selected)} {kind}, not {plan.count}; lower --n")
    selected = selected[: plan.count]
    missing = next((caption.image for caption in selected if not caption.image.is_file()), None)
    if missing is not None:
        raise CogViewError(f"{missing}: no such image; give the folder of COCO's images with --images")
    return selected


def translated(
    captions: Sequence[str], command: str, folder: Path, progress: Progress | None = None
) -> list[str]:
    """Translate captions with a command, line by line; translations are cached in ``folder``.

    Raises:
        CogViewError: the command fails, or does not return one text per caption.
    """
    path, translate = folder / "translations.json", command_translator(command)
    known: dict[str, str] = files.load_json(path, MAX_BYTES) if path.is_file() else {}
    new = [text for text in dict.fromkeys(captions) if text not in known]
    for first in range(0, len(new), TOGETHER):
        batch = new[first : first + TOGETHER]
        translations = [" ".join(text.split()) for text in translate(batch)]
        if len(translations) != len(batch) or not all(translations):
            raise CogViewError(
                f"--translate gave {sum(map(bool, translations))} texts for {len(batch)}, not one each"
            )
        known |= dict(zip(batch, translations, strict=True))
        write_file(path, json.dumps(known, ensure_ascii=False, indent=0) + "\n")
        if progress:
            progress("translating", min(first + TOGETHER, len(new)), len(new))
    return [known[text] for text in captions]


def prompt_texts(
    selected: Sequence[CocoCaption],
    captions: Path,
    plan: CocoPlan,
    work: Path,
    progress: Progress | None = None,
) -> list[str]:
    """The texts of the selected captions, translated by the plan's command if it has one."""
    texts = [caption.caption for caption in selected]
    if not plan.translate:
        return texts
    facts = {"captions": _hash(captions.read_bytes()), "command": plan.translate}
    return translated(texts, plan.translate, SampleStore(work, "coco-translations", facts).folder, progress)


def reference_of(selected: Sequence[CocoCaption], images: Path) -> ImageSet:
    """The photographs of the selected captions, each once."""
    real = dict.fromkeys(caption.image for caption in selected)
    return ImageSet(str(images), tuple((path.name, path) for path in sorted(real)))


class CocoGenerator:
    """Generates images for COCO: the best of several by caption loss, with the plan's contrast."""

    def __init__(self, model: Pipeline, plan: CocoPlan) -> None:
        self.model, self.plan = model, plan
        self.name, self.precision = model.bundle.config.name, model.components.precision
        self.fingerprint = model.model_hash
        if plan.best_of > 1:
            model.captioning  # noqa: B018  (raises before any generation if the family cannot rank)

    def generate(self, prompt: str, seed: int) -> GeneratedImage:
        """The image of a prompt, with its provenance."""
        params = SamplingParams.given(**self.plan.sampling)
        truncate = self.model.bundle.config.two_stage
        [output] = self.model.generate(
            prompt, n=1, seed=seed, best_of=self.plan.best_of, params=params, truncate=truncate
        )
        if self.plan.contrast == 1:
            return output
        image = ImageEnhance.Contrast(output.image).enhance(self.plan.contrast)
        settings = {**output.settings, "contrast": self.plan.contrast}
        return dataclasses.replace(output, image=image, settings=settings)


def caption_losses(paths: Sequence[Path]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The caption losses in the metadata of image files, (n,); images that were not ranked have none."""
    provenances = [read_provenance(path) for path in paths]
    rankings = [p.settings.get("best_of") if p else None for p in provenances]
    return np.array([r["caption_loss"] for r in rankings if isinstance(r, dict)], dtype=np.float64)


def evaluate_coco(
    plan: CocoPlan,
    data: CocoFiles,
    model: Pipeline,
    extractor: Extractor,
    work: Path,
    figures: DistributionPlan | None = None,
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> CocoReport | None:
    """Select captions, translate, generate and measure; None while images of other ranks are missing.

    Raises:
        CogViewError: the data are incomplete or not in COCO's format, the model cannot rank, or a setting is
            wrong.
    """
    figures = figures or DistributionPlan(metrics=("fid", "kid", "is"), blurs=BLURS)
    selected = data.select(plan)
    generator = CocoGenerator(model, plan)
    texts, name = prompt_texts(selected, data.captions, plan, work, progress), model.bundle.config.name
    settings = plan.model_dump(include={"best_of", "contrast"})
    store = SampleStore.of(work, generator, texts, plan.seed, plan.sampling, f"coco-{name}", **settings)
    paths = store.fill(
        len(texts),
        lambda indices: [generator.generate(texts[i], plan.seed + i).save for i in indices],
        1,
        rank,
        progress=progress,
    )
    if paths is None:
        return None
    generated = ImageSet(str(store.folder), tuple((path.name, path) for path in paths))
    reference = reference_of(selected, data.images)
    report = compare_pictures(reference, generated, figures, extractor, work, progress)
    assert report is not None  # there is only one part
    return _report(report, plan, paths, data.captions, selected, model)


def _report(
    report: DistributionReport,
    plan: CocoPlan,
    paths: Sequence[Path],
    captions: Path,
    selected: Sequence[CocoCaption],
    model: Pipeline,
) -> CocoReport:
    figures = dict(report.figures)
    losses = caption_losses(paths[: plan.losses])
    if len(losses):
        mean = mean_figure(losses, max(report.manifest.plan.bootstrap, 100), plan.seed)
        figures["CapLoss"] = Value(value=mean.value, low=mean.low, high=mean.high)
    manifest = CocoManifest(
        **dict(report.manifest),
        coco=plan,
        captions=_hash(captions.read_bytes()),
        selection=_hash(json.dumps([caption.number for caption in selected]).encode()),
    )
    facts: dict[str, str | int | float] = {
        "model": model.bundle.config.name,
        "model_hash": model.model_hash,
        "precision": model.components.precision,
    }
    return CocoReport(manifest=manifest, drawn=report.drawn, figures=figures, facts=facts)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
