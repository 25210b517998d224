"""Degradation of training images to the quality of generated ones, so that a judge reads the content.

Image tokenizers blur edges, shift colours and lose detail in patches; objects in generated images are also a
little larger, smaller or off centre. All random numbers come from torch's global CPU generator, whatever the
device of the images. Images are (batch, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 8  # pixels; ``patchy`` removes the detail of half of the patches


def spoil(images: Tensor, zoom: float = 0.15, blur: float = 1.6) -> Tensor:
    """Degraded copies. zoom: maximum relative change of size and position; blur: maximum sigma in pixels."""
    images = zoom_and_shift(images, zoom) if zoom else images
    degradations: list[Callable[[Tensor], Tensor]] = [
        lambda part: part,
        lambda part: gaussian(part, 0.3 + (blur - 0.3) * float(torch.rand(()))),
        lambda part: coarse(part, 0.35 + 0.45 * float(torch.rand(()))),
        patchy,
    ]
    order = torch.randperm(len(images))
    parts = [
        degrade(images[rows])
        for degrade, rows in zip(degradations, order.tensor_split(len(degradations)), strict=True)
        if len(rows)
    ]
    return tint(torch.cat(parts)[order.argsort()])


def zoom_and_shift(images: Tensor, zoom: float) -> Tensor:
    """Zoom, slightly stretch and shift each image, repeating its border."""
    batch = len(images)
    scale = 1 + zoom * (2 * torch.rand(batch, 1) - 1) + 0.04 * torch.randn(batch, 2)
    shift = zoom * (2 * torch.rand(batch, 2) - 1)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], shift
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur."""
    radius = max(2, round(2.5 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    line = (line / line.sum()).expand(3, 1, -1).to(images.device)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line[:, :, None], groups=3), line[..., None], groups=3)


def coarse(images: Tensor, share: float) -> Tensor:
    """Downscale to ``share`` of the size and upscale again."""
    side = tuple(images.shape[-2:])
    small = [max(4, round(length * share)) for length in side]
    reduced = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(reduced, side, mode="bilinear")


def patchy(images: Tensor) -> Tensor:
    """Remove the detail and shift the colour of half of the patches, as wrongly sampled codes do."""
    batch, _, *side = images.shape
    cells = [-(-length // PATCH) for length in side]
    colours = torch.randn(batch, 3, *cells).to(images)
    soft = coarse(images, 0.25) + 0.06 * F.interpolate(colours, side, mode="bilinear")
    mask = F.interpolate((torch.rand(batch, 1, *cells) < 0.5).to(images), side, mode="bilinear")
    return images + mask * (soft - images)


def tint(images: Tensor) -> Tensor:
    """Jitter saturation, contrast and white balance, and add a little noise."""
    batch, device = len(images), images.device
    grey, middle = images.mean(1, keepdim=True), images.mean((1, 2, 3), keepdim=True)
    images = grey + (1 + 0.25 * torch.randn(batch, 1, 1, 1)).clamp(0, 1.6).to(device) * (images - grey)
    images = middle + (1 + 0.12 * torch.randn(batch, 1, 1, 1)).to(device) * (images - middle)
    gain = 1 + 0.05 * torch.randn(batch, 3, 1, 1).to(device)
    noise = torch.randn_like(images, device="cpu").to(device) * (0.04 * torch.rand(batch, 1, 1, 1)).to(device)
    return (images * gain + noise).clamp(0, 1)
