"""Training images made as soft and inexact as generated ones, so that a judge reads what is shown.

Image tokenizers blur edges, shift colours and lose detail in patches; generated drawings are besides a little
larger, smaller or off the middle. Everything is drawn from torch's global generator of the CPU, image by
image, wherever the images are. Images are (batch, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 8  # pixels; half of the patches of a patchy image lose their detail


def spoil(images: Tensor, zoom: float = 0.15, blur: float = 1.6) -> Tensor:
    """Spoiled copies. zoom: the largest change of size and place, if any; blur: the largest sigma, pixels."""
    images = place(images, zoom) if zoom else images
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda part: part,
        lambda part: gaussian(part, 0.3 + (blur - 0.3) * float(torch.rand(()))),
        lambda part: coarse(part, 0.35 + 0.45 * float(torch.rand(()))),
        patchy,
    ]
    order = torch.randperm(len(images))
    parts = [
        way(images[rows]) for way, rows in zip(ways, order.tensor_split(len(ways)), strict=True) if len(rows)
    ]
    return tint(torch.cat(parts)[order.argsort()])


def place(images: Tensor, zoom: float) -> Tensor:
    """Each image enlarged or reduced, stretched a little and moved; its border is repeated."""
    batch = len(images)
    scale = 1 + zoom * (2 * torch.rand(batch, 1) - 1) + 0.04 * torch.randn(batch, 2)
    moved = zoom * (2 * torch.rand(batch, 2) - 1)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], moved
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur."""
    reach = max(2, round(2.5 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = (line / line.sum()).expand(3, 1, -1).to(images.device)
    wide = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, line[:, :, None], groups=3), line[..., None], groups=3)


def coarse(images: Tensor, share: float) -> Tensor:
    """Reduced to ``share`` of the size and enlarged again."""
    side = tuple(images.shape[-2:])
    small = [max(4, round(length * share)) for length in side]
    reduced = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(reduced, side, mode="bilinear")


def patchy(images: Tensor) -> Tensor:
    """Half of the patches without detail and with a colour that is off, as of codes badly chosen."""
    batch, _, *side = images.shape
    cells = [-(-length // PATCH) for length in side]
    colours = torch.randn(batch, 3, *cells).to(images)
    soft = coarse(images, 0.25) + 0.06 * F.interpolate(colours, side, mode="bilinear")
    chosen = F.interpolate((torch.rand(batch, 1, *cells) < 0.5).to(images), side, mode="bilinear")
    return images + chosen * (soft - images)


def tint(images: Tensor) -> Tensor:
    """Other brightness, contrast, saturation and white, and a little noise."""
    batch, device = len(images), images.device
    grey, middle = images.mean(1, keepdim=True), images.mean((1, 2, 3), keepdim=True)
    images = grey + (1 + 0.25 * torch.randn(batch, 1, 1, 1)).clamp(0, 1.6).to(device) * (images - grey)
    images = middle + (1 + 0.12 * torch.randn(batch, 1, 1, 1)).to(device) * (images - middle)
    gain = 1 + 0.05 * torch.randn(batch, 3, 1, 1).to(device)
    noise = torch.randn_like(images, device="cpu").to(device) * (0.04 * torch.rand(batch, 1, 1, 1)).to(device)
    return (images * gain + noise).clamp(0, 1)
