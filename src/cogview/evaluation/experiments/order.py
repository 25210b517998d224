"""Many images of one prompt, sorted by their caption loss (CogView, figure 6).

The paper shows 60 images, with most bad ones last. An alignment scorer can measure how far it agrees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cogview.checkpoints.provenance import read as read_provenance
from cogview.config import Config
from cogview.data.images import decode, square
from cogview.errors import CogViewError
from cogview.evaluation.judges.scorer import DualEncoder
from cogview.evaluation.reports import versions
from cogview.evaluation.sample_store import Progress, SampleStore, Save
from cogview.pipelines.model import Pipeline
from cogview.types import SamplingParams

COLUMNS, GAP, LINE = 10, 4, 14
TOGETHER = 16  # images per group, which is generated and then stored
TILE = 72  # minimum side in pixels on the sheet; smaller images are scaled by an integer


class Placed(Config):
    """An image: its index, its caption loss in nats per token, and its cosine with the prompt if scored."""

    index: int
    loss: float
    fit: float | None = None


class OrderReport(Config):
    """The images of a prompt, the lowest caption loss first.

    agreement: Spearman's rank correlation of low losses with high cosines (1: the same order).
    """

    format: Literal[1] = 1
    kind: Literal["order"] = "order"
    prompt: str
    seed: int
    order: tuple[Placed, ...]
    agreement: float | None = None
    facts: dict[str, str | int | float | bool | None]


def rank_images(
    model: Pipeline,
    prompt: str,
    n: int = 60,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    alignment: DualEncoder | None = None,
    progress: Progress | None = None,
    work: Path | None = None,
) -> tuple[OrderReport, list[Image.Image]]:
    """Generate ``n`` images of a prompt and sort them; returns the report, and the images in its order.

    A two-stage family contributes the small images of its first stage, which its caption loss is for.
    ``work``: folder for images, so that an interrupted run resumes.
    Raises CogViewError if the family has no caption role, before anything is generated.
    """
    model.captioning.encode(prompt)  # fails before images are generated
    with contextlib.ExitStack() as stack:
        folder = work or Path(stack.enter_context(TemporaryDirectory()))
        images, losses, settings = _generated(model, prompt, n, seed, sampling or {}, folder, progress)
    fits = None if alignment is None else _fits(alignment, images, prompt)
    ranks = np.argsort(losses, kind="stable").tolist()
    report = OrderReport(
        prompt=prompt,
        seed=seed,
        order=tuple(
            Placed(index=i, loss=float(losses[i]), fit=None if fits is None else float(fits[i]))
            for i in ranks
        ),
        agreement=None if fits is None else spearman(-losses, fits),
        facts={
            "model": model.bundle.config.name,
            "model_hash": model.model_hash,
            "scorer_fingerprint": "" if alignment is None else alignment.fingerprint,
            **{name: value for name, value in settings.items() if not isinstance(value, dict)},
            **versions(),
        },
    )
    return report, [images[i] for i in ranks]


def _generated(
    model: Pipeline,
    prompt: str,
    n: int,
    seed: int,
    sampling: Mapping[str, Any],
    work: Path,
    progress: Progress | None,
) -> tuple[list[Image.Image], NDArray[np.float64], Mapping[str, Any]]:
    """The images, their caption losses, and their sampling settings."""
    precision = model.components.precision
    facts = {"model": model.model_hash, "precision": precision, "prompt": prompt, "seed": seed}
    store = SampleStore(work, f"order-{model.bundle.config.name}", facts | {"sampling": dict(sampling)})
    params = SamplingParams.given(**sampling)

    def generate(indices: range) -> list[Save]:
        outputs = model.generate(
            prompt,
            len(indices),
            seed,
            params=params,
            first=indices.start,
            first_stage_only=model.bundle.config.two_stage,
        )
        losses = model.score(outputs, outputs[0].caption)[:, 0]  # of the codes, which files do not hold
        store.numbers(f"losses-{indices.start:06d}", len(indices), losses.tolist)
        return [output.save for output in outputs]

    paths = store.fill(n, generate, TOGETHER, what="generating", progress=progress)
    assert paths is not None  # there is only one rank
    groups = [(first, min(TOGETHER, n - first)) for first in range(0, n, TOGETHER)]
    losses = [store.numbers(f"losses-{first:06d}", count, list) for first, count in groups]
    provenance = read_provenance(paths[0])
    assert provenance is not None  # ``save`` writes it
    return [decode(path).image for path in paths], np.concatenate(losses), provenance.settings


def _fits(alignment: DualEncoder, images: Sequence[Image.Image], prompt: str) -> NDArray[np.float64]:
    pixels = np.stack([square(image, alignment.config.preprocessing) for image in images])
    fits: NDArray[np.float64] = alignment.encode_image(pixels) @ alignment.encode_text([prompt])[0]
    return fits


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None if all values of one are equal.

    Raises CogViewError if SciPy is not installed.
    """
    try:
        from scipy.stats import spearmanr
    except ImportError:
        raise CogViewError("rank correlation needs SciPy; pip install 'cogview[eval]'") from None
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def order_sheet(report: OrderReport, images: Sequence[Image.Image], columns: int = COLUMNS) -> Image.Image:
    """A contact sheet of the images, with rank and caption loss below each."""
    scale = max(1, -(-TILE // images[0].width))
    width, height = images[0].width * scale, images[0].height * scale
    across, down = width + GAP, height + GAP + LINE
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * across + GAP, -(-len(images) // columns) * down + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (placed, image) in enumerate(zip(report.order, images, strict=True)):
        x, y = GAP + number % columns * across, GAP + number // columns * down
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + height), f"{number + 1}: {placed.loss:.3f}", fill="black", font=font)
    return sheet
