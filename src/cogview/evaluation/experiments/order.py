"""Many pictures of one prompt in the order of their caption loss (CogView, figure 6).

The paper shows 60: most bad ones stand last. An alignment scorer can tell how far it agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cogview.config import Config
from cogview.data.images import square
from cogview.errors import CogViewError
from cogview.evaluation.judges.scorer import DualEncoder
from cogview.evaluation.reports import versions
from cogview.pipelines.model import Pipeline
from cogview.types import ProgressCallback as Progress
from cogview.types import SamplingParams

COLUMNS, GAP, LINE = 10, 4, 14
TILE = 72  # pixels: smaller pictures are enlarged by whole numbers to at least this


class Placed(Config):
    """A picture: its index, caption loss in nats a token, and the cosine with the prompt if it was read."""

    index: int
    loss: float
    fit: float | None = None


class OrderReport(Config):
    """The pictures of a prompt, the lowest caption loss first.

    agreement: Spearman's rank correlation of low losses with high cosines (1: the same order).
    """

    format: Literal[1] = 1
    kind: Literal["order"] = "order"
    prompt: str
    seed: int
    order: tuple[Placed, ...]
    agreement: float | None = None
    facts: dict[str, str | int | float | bool | None]


def order_pictures(
    model: Pipeline,
    prompt: str,
    n: int = 60,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    alignment: DualEncoder | None = None,
    progress: Progress | None = None,
) -> tuple[OrderReport, list[Image.Image]]:
    """Draw ``n`` pictures of a prompt and sort them; the report, and the pictures in its order.

    Of a family that enlarges what it draws they are the small ones, which its caption loss reads.
    Raises CogViewError where the family has no caption role; before anything is drawn.
    """
    model.captioning.encode(prompt)
    params = SamplingParams.given(**(sampling or {}))
    pictures = model.generate(
        prompt, n=n, seed=seed, params=params, first_stage_only=model.two_stage, progress=progress
    )
    losses = model.score(pictures, pictures[0].caption)[:, 0]
    fits = None if alignment is None else _fits(alignment, [p.image for p in pictures], prompt)
    ranks = np.argsort(losses, kind="stable").tolist()
    report = OrderReport(
        prompt=prompt,
        seed=seed,
        order=tuple(
            Placed(
                index=pictures[i].index, loss=float(losses[i]), fit=None if fits is None else float(fits[i])
            )
            for i in ranks
        ),
        agreement=None if fits is None else spearman(-losses, fits),
        facts={
            "model": model.bundle.config.name,
            "model_hash": model.model_hash,
            "scorer_fingerprint": "" if alignment is None else alignment.fingerprint,
            **{name: value for name, value in pictures[0].settings.items() if not isinstance(value, dict)},
            **versions(),
        },
    )
    return report, [pictures[i].image for i in ranks]


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
    """The pictures row by row, rank and caption loss below each."""
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
