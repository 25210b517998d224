"""Table 1 of both papers for images in folders: several systems, one common judge.

CogView (section 4.1) compares AttnGAN, DM-GAN, DF-GAN and itself in one table: FID-k and Inception Score
against the same photographs, and the caption loss of all images by one caption model. Here a system is a
folder with one image for each selected caption, named after the caption's id in the captions file or after
its photograph; :func:`write_selection` writes the captions for which systems have to generate images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.evaluation.experiments.coco import CocoCaption, CocoFiles, prompt_texts, reference_of
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.metrics.fid import DistributionPlan, Extractor, Manifest, Value, compare_pictures
from cogview.evaluation.metrics.image_sets import SUFFIXES, ImageSet
from cogview.evaluation.metrics.intervals import mean_figure
from cogview.evaluation.plans import CocoPlan
from cogview.evaluation.reports import versions
from cogview.evaluation.sample_store import Progress, SampleStore
from cogview.files import write_file


class CocoTable(Config):
    """The figures of every system by its name.

    manifests: everything that determines the figures; drawn: fingerprints of the systems' images; facts: the
    judge's name and hash, and the number of captions.
    """

    format: Literal[1] = 1
    kind: Literal["coco_table"] = "coco_table"
    coco: CocoPlan
    rows: dict[str, dict[str, Value]]
    manifests: dict[str, Manifest]
    drawn: dict[str, str]
    facts: dict[str, str | int | float]


def read_systems(entries: Sequence[str]) -> dict[str, Path]:
    """Parse ``NAME=DIR`` of every system; CogViewError for another format, a repeated name, or no folder."""
    systems: dict[str, Path] = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder) or name in systems:
            raise CogViewError(f"--pictures {entry}: write NAME=DIR, each name once")
        if not Path(folder).is_dir():
            raise CogViewError(f"--pictures {entry}: there is no folder {folder}")
        systems[name] = Path(folder)
    return systems


def images_of(name: str, folder: Path, selected: Sequence[CocoCaption]) -> list[Path]:
    """A system's image of every caption; CogViewError if one is missing or there are two."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise CogViewError(f"{name}: {path} and {files[path.stem]} have the same name; keep one")
            files[path.stem] = path
    paths = [files.get(str(caption.number), files.get(caption.image.stem)) for caption in selected]
    missing = [caption for caption, path in zip(selected, paths, strict=True) if path is None]
    if missing:
        first = missing[0]
        raise CogViewError(
            f"{name}: {len(missing)} of {len(selected)} images are missing in {folder}, the first one "
            f"{first.number}.png (or {first.image.stem}.png); --list writes the captions"
        )
    return [path for path in paths if path is not None]


def write_selection(plan: CocoPlan, data: CocoFiles, path: Path) -> int:
    """Write the selected captions as tab-separated values (number, photograph, caption); their count."""
    selected, text = data.select(plan), io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("number", "photograph", "caption"))
    writer.writerows((caption.number, caption.image.name, caption.caption) for caption in selected)
    write_file(path, text.getvalue())
    return len(selected)


def evaluate_systems(
    plan: CocoPlan,
    data: CocoFiles,
    systems: Mapping[str, Path],
    judge: ModelGenerator,
    extractor: Extractor,
    work: Path,
    figures: DistributionPlan,
    progress: Progress | None = None,
) -> CocoTable:
    """FID-k, KID-k, Inception Score and the judge's caption loss of every system's images.

    Raises:
        CogViewError: an image is missing, the judge cannot caption images, or the data are not COCO's.
    """
    judge.family.captioning  # noqa: B018  (raises before anything is measured)
    selected = data.select(plan)
    by_system = {name: images_of(name, folder, selected) for name, folder in systems.items()}
    texts, reference = (
        prompt_texts(selected, data.captions, plan, work, progress),
        reference_of(selected, data.images),
    )
    rows, manifests, hashes = dict[str, dict[str, Value]](), dict[str, Manifest](), dict[str, str]()
    for name, paths in by_system.items():
        images = ImageSet(name, tuple((f"{i:06d}", path) for i, path in enumerate(paths)))
        report = compare_pictures(reference, images, figures, extractor, work, progress)
        assert report is not None  # there is only one part
        losses = judge_losses(judge, paths[: plan.losses], texts, images.fingerprint, work, progress)
        mean = mean_figure(losses, max(figures.bootstrap, 100), plan.seed)
        rows[name] = {**report.figures, "CapLoss": Value(**mean.model_dump())}
        manifests[name], hashes[name] = report.manifest, images.fingerprint
    facts = {"judge": judge.name, "judge_fingerprint": judge.fingerprint, "captions": len(selected)}
    return CocoTable(coco=plan, rows=rows, manifests=manifests, drawn=hashes, facts={**facts, **versions()})


def judge_losses(
    judge: ModelGenerator,
    paths: Sequence[Path],
    texts: Sequence[str],
    fingerprint: str,
    work: Path,
    progress: Progress | None = None,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The judge's caption loss (n,) of each image with its caption; stored in ``work``, for resuming.

    fingerprint: of the images.
    """
    store = SampleStore(
        work, "coco-judged", {"judge": judge.fingerprint, "pictures": fingerprint, "texts": list(texts)}
    )
    losses = []
    for i, path in enumerate(paths):

        def loss(path: Path = path, text: str = texts[i]) -> list[float]:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
            return [float(value) for value in judge.losses(pixels, [text])]

        losses += store.numbers(f"{i:06d}", 1, loss)
        if progress:
            progress("judging", i + 1, len(paths))
    return np.array(losses, dtype=np.float64)
