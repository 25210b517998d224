"""Pictures as the released code saved them: contrast stretched over all that is in one file, in a grid.

Black becomes the darkest value of the whole tensor and white the lightest, so a picture looks different alone
and beside others. Ours are clamped and not stretched (``text_to_image.paint``); this is for comparison.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

COLUMNS, GAP = 8, 2
SMALLEST_RANGE = 1e-5


def stretch(images: Tensor) -> Tensor:
    """Images of any shape with their smallest value at 0 and their largest at 1."""
    low, high = images.min(), images.max()
    return (images - low) / (high - low).clamp(min=SMALLEST_RANGE)


def grid(images: Tensor, columns: int = COLUMNS) -> Tensor:
    """Images (n, 3, H, W) on one sheet (3, rows, columns), black between them; one stays as it is."""
    if len(images) == 1:
        return images[0]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tiles = F.pad(images, (GAP, 0, GAP, 0))
    tiles = torch.cat([tiles, tiles.new_zeros(rows * columns - len(images), *tiles.shape[1:])])
    channels, height, width = tiles.shape[1:]
    sheet = tiles.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return F.pad(sheet.reshape(channels, rows * height, columns * width), (0, GAP, 0, GAP))


def released_picture(images: Tensor, columns: int = COLUMNS) -> Image.Image:
    """What the released code wrote into a file for images (3, H, W) or (n, 3, H, W), nominally in [0, 1]."""
    images = images[None] if images.dim() == 3 else images
    pixels = (grid(stretch(images.float()), columns) * 255 + 0.5).clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
