"""The MS-COCO evaluation of both papers: 30,000 captions, the best of many images, FID-k at 256 pixels.

CogView (section 4.1): 30,000 captions of the validation set, translated into Chinese by machine; for each the
best of 60 images by caption loss, its contrast raised by 1.5; FID and Inception Score after Gaussian blurs
of both sides, and the caption loss of 5,000. CogView2 (section 5.2): captions of different images, the best
of 16, no change of contrast, images shrunk to 256 pixels. The captions and images are the user's copy.

A run may be stopped, and several processes may share it: chosen images are kept as files, each of which
says how it was made.
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

MOST_BYTES = 1 << 30  # of a file of captions; COCO's have 30 to 100 MB
TOGETHER = 256  # captions translated at a time


class CocoManifest(Manifest):
    """All the figures hang on: of the images, and of how captions were chosen and translated."""

    coco: CocoPlan
    captions: str
    selection: str


class CocoReport(DistributionReport):
    """The figures of one model on COCO; ``CapLoss`` is among them."""

    kind: Literal["coco"] = "coco"
    manifest: CocoManifest
    facts: dict[str, str | int | float]


class _Foreign(Config):
    """What is read of a file whose other keys are not ours."""

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
    """One caption, the number it has in the file, and its image's file."""

    number: int
    caption: str
    picture: Path


@dataclass(frozen=True)
class CocoFiles:
    """The user's copy: a file of captions in COCO's format, and the folder of its photographs."""

    captions: Path
    images: Path

    def chosen(self, plan: CocoPlan) -> list[CocoCaption]:
        """What :func:`select` gives of them."""
        return select(read_captions(self.captions, self.images), plan)


def read_captions(path: Path, images: Path) -> list[CocoCaption]:
    """All captions of a file in COCO's format, by their numbers; images are looked for in ``images``.

    Raises:
        CogViewError: not such a file, or a caption of an image that it does not name.
    """
    data = files.load_json(path, MOST_BYTES)
    found = validate(_Captions, data, f"{path}: not captions in COCO's format")
    names = {image.id: image.file_name for image in found.images}
    lost = next((a for a in found.annotations if a.image_id not in names), None)
    if lost is not None:
        raise CogViewError(f"{path}: caption {lost.id} is of picture {lost.image_id}, which it does not list")
    captions = [
        CocoCaption(a.id, " ".join(a.caption.split()), images / names[a.image_id]) for a in found.annotations
    ]
    return sorted((own for own in captions if own.caption), key=lambda own: own.number)


def select(captions: Sequence[CocoCaption], plan: CocoPlan) -> list[CocoCaption]:
    """``plan.count`` captions at random, in the order they were drawn.

    Raises:
        CogViewError: there are fewer, or an image is missing.
    """
    order = np.random.default_rng(plan.seed).permutation(len(captions)).tolist()
    chosen = [captions[i] for i in order]
    if plan.distinct:
        first: dict[Path, CocoCaption] = {}
        for own in chosen:
            first.setdefault(own.picture, own)
        chosen = list(first.values())
    if len(chosen) < plan.count:
        kind = "captions of different pictures" if plan.distinct else "captions"
        raise CogViewError(f"there are {len(chosen)} {kind}, not {plan.count}; lower --n")
    chosen = chosen[: plan.count]
    missing = next((own.picture for own in chosen if not own.picture.is_file()), None)
    if missing is not None:
        raise CogViewError(f"{missing}: no such picture; give the folder of COCO's pictures with --images")
    return chosen


def translated(
    captions: Sequence[str], command: str, folder: Path, progress: Progress | None = None
) -> list[str]:
    """The captions through a command, line by line; what it gave is kept in ``folder``.

    Raises:
        CogViewError: the command fails, or does not give a text for each.
    """
    path, translate = folder / "translations.json", command_translator(command)
    known: dict[str, str] = files.load_json(path, MOST_BYTES) if path.is_file() else {}
    new = [text for text in dict.fromkeys(captions) if text not in known]
    for first in range(0, len(new), TOGETHER):
        some = new[first : first + TOGETHER]
        found = [" ".join(text.split()) for text in translate(some)]
        if len(found) != len(some) or not all(found):
            raise CogViewError(
                f"--translate gave {sum(map(bool, found))} texts for {len(some)}, not one each"
            )
        known |= dict(zip(some, found, strict=True))
        write_file(path, json.dumps(known, ensure_ascii=False, indent=0) + "\n")
        if progress:
            progress("translating", min(first + TOGETHER, len(new)), len(new))
    return [known[text] for text in captions]


def prompt_texts(
    chosen: Sequence[CocoCaption],
    captions: Path,
    plan: CocoPlan,
    work: Path,
    progress: Progress | None = None,
) -> list[str]:
    """The texts of the chosen captions, through the plan's command if it has one."""
    texts = [own.caption for own in chosen]
    if not plan.translate:
        return texts
    facts = {"captions": _hash(captions.read_bytes()), "command": plan.translate}
    return translated(texts, plan.translate, SampleStore(work, "coco-translations", facts).folder, progress)


def reference_of(chosen: Sequence[CocoCaption], images: Path) -> ImageSet:
    """The photographs of the chosen captions, each once."""
    real = dict.fromkeys(own.picture for own in chosen)
    return ImageSet(str(images), tuple((path.name, path) for path in sorted(real)))


class CocoGenerator:
    """A model family for COCO: the best of several images by caption loss, its contrast raised."""

    def __init__(self, model: Pipeline, plan: CocoPlan) -> None:
        self.model, self.plan = model, plan
        self.name, self.precision = model.bundle.config.name, model.components.precision
        self.fingerprint = model.model_hash
        if plan.best_of > 1:
            model.captioning  # noqa: B018  (a family that cannot rank is refused before anything is drawn)

    def draw(self, prompt: str, seed: int) -> GeneratedImage:
        """The image, with all that made it."""
        params = SamplingParams.given(**self.plan.sampling)
        cut = self.model.bundle.config.two_stage
        [picture] = self.model.generate(
            prompt, n=1, seed=seed, best_of=self.plan.best_of, params=params, truncate=cut
        )
        if self.plan.contrast == 1:
            return picture
        image = ImageEnhance.Contrast(picture.image).enhance(self.plan.contrast)
        settings = {**picture.settings, "contrast": self.plan.contrast}
        return dataclasses.replace(picture, image=image, settings=settings)


def caption_losses(paths: Sequence[Path]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The caption losses that drawn files tell, (n,); empty where images were not ranked."""
    told = [read_provenance(path) for path in paths]
    ranked = [own.settings.get("best_of") if own else None for own in told]
    return np.array([own["caption_loss"] for own in ranked if isinstance(own, dict)], dtype=np.float64)


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
    """Choose, translate, draw, measure; None while other ranks have images to draw.

    Raises:
        CogViewError: the data are not COCO's or not all there, the model cannot rank, a setting is wrong.
    """
    figures = figures or DistributionPlan(metrics=("fid", "kid", "is"), blurs=BLURS)
    chosen = data.chosen(plan)
    painter = CocoGenerator(model, plan)
    texts, name = prompt_texts(chosen, data.captions, plan, work, progress), model.bundle.config.name
    kept = plan.model_dump(include={"best_of", "contrast"})
    store = SampleStore.of(work, painter, texts, plan.seed, plan.sampling, f"coco-{name}", **kept)
    paths = store.fill(
        len(texts),
        lambda own: [painter.draw(texts[i], plan.seed + i).save for i in own],
        1,
        rank,
        progress=progress,
    )
    if paths is None:
        return None
    drawn = ImageSet(str(store.folder), tuple((path.name, path) for path in paths))
    report = compare_pictures(reference_of(chosen, data.images), drawn, figures, extractor, work, progress)
    assert report is not None
    return _report(report, plan, paths, data.captions, chosen, model)


def _report(
    report: DistributionReport,
    plan: CocoPlan,
    paths: Sequence[Path],
    captions: Path,
    chosen: Sequence[CocoCaption],
    model: Pipeline,
) -> CocoReport:
    found = dict(report.figures)
    losses = caption_losses(paths[: plan.losses])
    if len(losses):
        mean = mean_figure(losses, max(report.manifest.plan.bootstrap, 100), plan.seed)
        found["CapLoss"] = Value(value=mean.value, low=mean.low, high=mean.high)
    manifest = CocoManifest(
        **dict(report.manifest),
        coco=plan,
        captions=_hash(captions.read_bytes()),
        selection=_hash(json.dumps([own.number for own in chosen]).encode()),
    )
    facts: dict[str, str | int | float] = {
        "model": model.bundle.config.name,
        "model_hash": model.model_hash,
        "precision": model.components.precision,
    }
    return CocoReport(manifest=manifest, drawn=report.drawn, figures=found, facts=facts)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
