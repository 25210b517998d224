"""Contact sheets: several images side by side in one."""

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
    """Arrange images in rows of ``columns`` (default: about as many as rows), each scaled by ``zoom``.

    ``gap`` is the number of white pixels between images. Images of another size than the first are resized to
    its size. Raises CogViewError if there is no image, a number is below 1, or the sheet would have more than
    64 million pixels.
    """
    tiles = [one.image if isinstance(one, GeneratedImage) else one for one in images]
    if not tiles:
        raise CogViewError("there is no image; pass at least one", field="images")
    columns = math.ceil(math.sqrt(len(tiles))) if columns is None else columns
    if columns < 1 or zoom < 1:
        raise CogViewError("columns and zoom have to be at least 1", field="columns")
    columns = min(columns, len(tiles))
    size = tiles[0].size
    width, height = size[0] * zoom, size[1] * zoom
    rows = -(-len(tiles) // columns)
    sheet_size = columns * (width + gap) + gap, rows * (height + gap) + gap
    if sheet_size[0] * sheet_size[1] > MAX_PIXELS:
        message = f"the sheet would have over {MAX_PIXELS:,} pixels; use fewer images or a smaller zoom"
        raise CogViewError(message)
    sheet = Image.new("RGB", sheet_size, "white")
    for number, image in enumerate(tiles):
        tile = fitted(image, size).convert("RGBA").resize((width, height), Image.Resampling.NEAREST)
        corner = gap + number % columns * (width + gap), gap + number // columns * (height + gap)
        sheet.paste(tile, corner, tile)
    return sheet
