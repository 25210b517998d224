"""Table 1 of both papers over images that lie in folders: several systems, one common judge.

CogView (section 4.1) puts AttnGAN, DM-GAN, DF-GAN and itself in one table: FID-k and Inception Score against
the same photographs, and the caption loss of everyone's images by one caption model. Here a system is a
folder, one image for each chosen caption, named by the caption's number in the captions file or by its
photograph's name; :func:`write_selection` writes what the others have to draw.
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
    """The figures of every system by its name; manifests: what they hang on, the drawn images' hashes too.

    facts: the judge's name and hash, and how many captions were chosen.
    """

    format: Literal[1] = 1
    kind: Literal["coco_table"] = "coco_table"
    coco: CocoPlan
    rows: dict[str, dict[str, Value]]
    manifests: dict[str, Manifest]
    drawn: dict[str, str]
    facts: dict[str, str | int | float]


def read_systems(entries: Sequence[str]) -> dict[str, Path]:
    """``NAME=DIR`` of every system; CogViewError for another form, a name twice, or no such folder."""
    found: dict[str, Path] = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        if not (name and equals and folder) or name in found:
            raise CogViewError(f"--pictures {entry}: write NAME=DIR, each name once")
        if not Path(folder).is_dir():
            raise CogViewError(f"--pictures {entry}: there is no folder {folder}")
        found[name] = Path(folder)
    return found


def pictures_of(name: str, folder: Path, chosen: Sequence[CocoCaption]) -> list[Path]:
    """A system's image of every caption; CogViewError where one is missing or there are two."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise CogViewError(f"{name}: {path} and {files[path.stem]} are of one name; keep one")
            files[path.stem] = path
    found = [files.get(str(own.number), files.get(own.picture.stem)) for own in chosen]
    missing = [own for own, path in zip(chosen, found, strict=True) if path is None]
    if missing:
        first = missing[0]
        raise CogViewError(
            f"{name}: {len(missing)} of {len(chosen)} pictures are missing in {folder}, the first one "
            f"{first.number}.png (or {first.picture.stem}.png); --list writes the captions to draw"
        )
    return [path for path in found if path is not None]


def write_selection(plan: CocoPlan, data: CocoFiles, path: Path) -> int:
    """Write the chosen captions as tab-separated values (number, photograph, caption); how many."""
    chosen, text = data.chosen(plan), io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("number", "photograph", "caption"))
    writer.writerows((own.number, own.picture.name, own.caption) for own in chosen)
    write_file(path, text.getvalue())
    return len(chosen)


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
        CogViewError: an image is missing, the judge cannot describe images, the data are not COCO's.
    """
    judge.family.captioning  # noqa: B018  (refused before anything is measured)
    chosen = data.chosen(plan)
    drawn = {name: pictures_of(name, folder, chosen) for name, folder in systems.items()}
    texts, reference = (
        prompt_texts(chosen, data.captions, plan, work, progress),
        reference_of(chosen, data.images),
    )
    rows, manifests, hashes = dict[str, dict[str, Value]](), dict[str, Manifest](), dict[str, str]()
    for name, paths in drawn.items():
        pictures = ImageSet(name, tuple((f"{i:06d}", path) for i, path in enumerate(paths)))
        report = compare_pictures(reference, pictures, figures, extractor, work, progress)
        assert report is not None  # it was computed in one part
        losses = judge_losses(judge, paths[: plan.losses], texts, pictures.fingerprint, work, progress)
        mean = mean_figure(losses, max(figures.bootstrap, 100), plan.seed)
        rows[name] = {**report.figures, "CapLoss": Value(**mean.model_dump())}
        manifests[name], hashes[name] = report.manifest, pictures.fingerprint
    facts = {"judge": judge.name, "judge_fingerprint": judge.fingerprint, "captions": len(chosen)}
    return CocoTable(coco=plan, rows=rows, manifests=manifests, drawn=hashes, facts={**facts, **versions()})


def judge_losses(
    judge: ModelGenerator,
    paths: Sequence[Path],
    texts: Sequence[str],
    pictures: str,
    work: Path,
    progress: Progress | None = None,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The judge's caption loss (n,) of each image with its caption; kept in ``work``, for stopped runs."""
    store = SampleStore(
        work, "coco-judged", {"judge": judge.fingerprint, "pictures": pictures, "texts": list(texts)}
    )
    found = []
    for i, path in enumerate(paths):

        def loss(path: Path = path, text: str = texts[i]) -> list[float]:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
            return [float(own) for own in judge.losses(pixels, [text])]

        found += store.numbers(f"{i:06d}", 1, loss)
        if progress:
            progress("judging", i + 1, len(paths))
    return np.array(found, dtype=np.float64)
