"""Pixel prior: how likely each code of the large image is, given the pixels of the small one.

A super-resolution model (CogView, section 3.1) reads the small image as codes, which hold far less than its
pixels. Where the pixels are known, they are used as well: enlarged bicubically and read by the
tokenizer's encoder, they give a vector near that of the right code. How far off it may be is a heavy-tailed
distribution (Student's), wide enough to let the model choose where the enlargement is blurred, narrow enough
to keep flat parts as they are. Its log-density is added to the model's logits: by Bayes' rule, the model
being the prior. Of an image of which only codes exist, the decoded image is used, with less weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.tokenizers.quantizers import Quantizer
from cogview.tokenizers.vqvae import ImageTokenizer

# Of the distribution, chosen on validation images: how fast it falls, for images of which all pixels are
# known and for those that the tokenizer painted from codes, whose flaws the large image must not inherit;
# and its width as a share of the usual squared distance between two neighbouring codes.
KNOWN = 12.0
PAINTED = 8.0
WIDTH = 0.04


@dataclass(frozen=True, eq=False)
class PixelLikelihood:
    """Log-likelihoods of codes, but for a constant a place.

    vectors: the encoder's, (rows, columns, dim), of an enlarged image; places are counted in raster order.
    """

    vectors: Tensor
    quantizer: Quantizer
    slope: float
    width: float

    def part(self, top: int, left: int, rows: int, columns: int) -> PixelLikelihood:
        """Of a window alone."""
        return replace(self, vectors=self.vectors[top : top + rows, left : left + columns])

    def __call__(self, place: int) -> Tensor:
        """(codes,) float32, of one place."""
        return self.at(torch.tensor([place]))[0]

    def at(self, places: Tensor) -> Tensor:
        """(m, codes) float32, of places (m,) int64."""
        distances = self.quantizer.distances(self.vectors.flatten(0, 1)[places])
        return -self.slope * (distances.clamp(min=0) + self.width).log()


class PixelPrior:
    """Makes likelihoods of small images, for one tokenizer."""

    def __init__(self, images: ImageTokenizer) -> None:
        self.images, self.width = images, WIDTH * neighbour_distance(images.quantizer)

    @classmethod
    def of(cls, images: AnyImageTokenizer) -> PixelPrior | None:
        """None where a tokenizer has several scales."""
        return cls(images) if isinstance(images, ImageTokenizer) else None

    @torch.inference_mode()
    def likelihood(self, pixels: Tensor, times: int, slope: float) -> PixelLikelihood:
        """What ``pixels`` (3, h, w) in [0, 1] say of the codes of an image ``times`` as large."""
        device = next(self.images.parameters()).device
        large = F.interpolate(pixels[None].to(device), scale_factor=times, mode="bicubic").clamp(0, 1)
        return PixelLikelihood(self.images.features(large)[0], self.images.quantizer, slope, self.width)


@torch.inference_mode()
def neighbour_distance(quantizer: Quantizer) -> float:
    """The median squared distance of a code to the one nearest to it."""
    book = quantizer.codebook.float()
    nearest = []
    for start in range(0, len(book), 1024):
        distances = quantizer.distances(book[start : start + 1024])
        distances[torch.arange(len(distances)), start + torch.arange(len(distances))] = torch.inf
        nearest.append(distances.min(1).values)
    return float(torch.cat(nearest).clamp(min=0).median())
