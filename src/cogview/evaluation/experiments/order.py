"""Many images of one prompt in the order of their caption loss (CogView, figure 6).

The paper shows 60: most bad ones stand last. An alignment scorer can tell how far it agrees.
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
TOGETHER = 16  # images generated, then kept
TILE = 72  # pixels: smaller images are enlarged by whole numbers to at least this


class Placed(Config):
    """An image: its index, caption loss in nats a token, and the cosine with the prompt if it was read."""

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
    """Generate ``n`` images of a prompt and sort them; the report, and the images in its order.

    Of a family that upscales what it generates they are the small ones, which its caption loss reads.
    ``work``: where images are kept, so that a stopped run goes on.
    Raises CogViewError where the family has no caption role; before anything is generated.
    """
    model.captioning.encode(prompt)
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
    """The images, their caption losses, and the settings they were made with."""
    precision = model.components.precision
    facts = {"model": model.model_hash, "precision": precision, "prompt": prompt, "seed": seed}
    store = SampleStore(work, f"order-{model.bundle.config.name}", facts | {"sampling": dict(sampling)})
    params = SamplingParams.given(**sampling)

    def make(own: range) -> list[Save]:
        made = model.generate(
            prompt,
            len(own),
            seed,
            params=params,
            first=own.start,
            first_stage_only=model.bundle.config.two_stage,
        )
        losses = model.score(made, made[0].caption)[:, 0]  # of their codes, which files do not hold
        store.numbers(f"losses-{own.start:06d}", len(own), losses.tolist)
        return [image.save for image in made]

    paths = store.fill(n, make, TOGETHER, what="generating", progress=progress)
    assert paths is not None  # one process makes them all
    groups = [(first, min(TOGETHER, n - first)) for first in range(0, n, TOGETHER)]
    losses = [store.numbers(f"losses-{first:06d}", count, list) for first, count in groups]
    told = read_provenance(paths[0])
    assert told is not None  # it was saved with it
    return [decode(path).image for path in paths], np.concatenate(losses), told.settings


def _fits(alignment: DualEncoder, images: Sequence[Image.Image], prompt: str) -> NDArray[np.float64]:
    pixels = np.stack([square(image, alignment.config.preprocessing) for image in images])
    fits: NDArray[np.float64] = alignment.encode_image(pixels) @ alignment.encode_text([prompt])[0]
    return fits


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """The correlation of the ranks, equals sharing theirs; None where all of one are equal.

    Raises CogViewError where SciPy is not installed.
    """
    try:
        from scipy.stats import spearmanr
    except ImportError:
        raise CogViewError("rank correlation needs SciPy; pip install 'cogview[eval]'") from None
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def order_sheet(report: OrderReport, images: Sequence[Image.Image], columns: int = COLUMNS) -> Image.Image:
    """The images row by row, rank and caption loss below each."""
    times = max(1, -(-TILE // images[0].width))
    width, height = images[0].width * times, images[0].height * times
    across, down = width + GAP, height + GAP + LINE
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * across + GAP, -(-len(images) // columns) * down + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (placed, image) in enumerate(zip(report.order, images, strict=True)):
        x, y = GAP + number % columns * across, GAP + number // columns * down
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + height), f"{number + 1}: {placed.loss:.3f}", fill="black", font=font)
    return sheet
