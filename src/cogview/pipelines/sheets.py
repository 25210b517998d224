"""Images side by side, as one image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.resizing import fitted

GAP = 4  # pixels between images
MAX_PIXELS = 64_000_000


def contact_sheet(
    images: Sequence[GeneratedImage | Image.Image],
    columns: int | None = None,
    zoom: int = 1,
    gap: int = GAP,
) -> Image.Image:
    """Images in rows of ``columns`` (default: about as many as rows), each ``zoom`` times as large.

    ``gap`` is the number of white pixels between them.

    Those of another size than the first are brought to its size. CogViewError for no image, a number under 1,
    or a sheet of over 64 million pixels.
    """
    pages = [one.image if isinstance(one, GeneratedImage) else one for one in images]
    if not pages:
        raise CogViewError("there is no picture", field="images")
    columns = math.ceil(math.sqrt(len(pages))) if columns is None else columns
    if columns < 1 or zoom < 1:
        raise CogViewError("columns and zoom have to be at least 1", field="columns")
    columns = min(columns, len(pages))
    size = pages[0].size
    width, height = size[0] * zoom, size[1] * zoom
    rows = -(-len(pages) // columns)
    sheet_size = columns * (width + gap) + gap, rows * (height + gap) + gap
    if sheet_size[0] * sheet_size[1] > MAX_PIXELS:
        raise CogViewError(f"the sheet would have over {MAX_PIXELS:,} pixels; take fewer, or a smaller zoom")
    sheet = Image.new("RGB", sheet_size, "white")
    for number, page in enumerate(pages):
        tile = fitted(page, size).convert("RGBA").resize((width, height), Image.Resampling.NEAREST)
        place = gap + number % columns * (width + gap), gap + number // columns * (height + gap)
        sheet.paste(tile, place, tile)
    return sheet
