"""Pixel prior: the likelihood of each code of the large image, given the pixels of the small one.

A super-resolution model (CogView, section 3.1) reads the small image as codes, which contain far less
information than its pixels. If the pixels are known, they are used as well: upscaled bicubically, the
tokenizer's encoder maps them to vectors close to those of the true codes. The distance is modelled by a
heavy-tailed distribution (Student's t), wide enough to let the model decide where the upscaled image is
blurred, narrow enough to preserve flat areas. Its log-density is added to the model's logits (Bayes' rule
with the model as prior). For an image of which only codes exist, the decoded image is used, with less weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.tokenizers.quantizers import Quantizer
from cogview.tokenizers.vqvae import ImageTokenizer

# Parameters of the distribution, chosen on validation images: its slope for known pixels and for images
# decoded from codes, whose artefacts should not reach the large image, and its width as a fraction of the
# typical squared distance between two neighbouring codes.
KNOWN = 12.0
DECODED = 8.0
WIDTH = 0.04


@dataclass(frozen=True, eq=False)
class PixelLikelihood:
    """Log-likelihoods of codes, up to a constant per place.

    vectors: (rows, columns, dim), the encoder's output for the upscaled image; places are in raster order.
    """

    vectors: Tensor
    quantizer: Quantizer
    slope: float
    width: float

    def part(self, top: int, left: int, rows: int, columns: int) -> PixelLikelihood:
        """The likelihoods of a window."""
        return replace(self, vectors=self.vectors[top : top + rows, left : left + columns])

    def __call__(self, place: int) -> Tensor:
        """Log-likelihoods (codes,) float32 of one place."""
        return self.at(torch.tensor([place]))[0]

    def at(self, places: Tensor) -> Tensor:
        """Log-likelihoods (m, codes) float32 of places (m,) int64."""
        distances = self.quantizer.distances(self.vectors.flatten(0, 1)[places])
        return -self.slope * (distances.clamp(min=0) + self.width).log()


class PixelPrior:
    """Computes likelihoods from small images, with one tokenizer."""

    def __init__(self, images: ImageTokenizer) -> None:
        self.images, self.width = images, WIDTH * neighbour_distance(images.quantizer)

    @classmethod
    def of(cls, images: AnyImageTokenizer) -> PixelPrior | None:
        """The pixel prior of a tokenizer; None if it has several scales."""
        return cls(images) if isinstance(images, ImageTokenizer) else None

    @torch.inference_mode()
    def likelihood(self, pixels: Tensor, times: int, slope: float) -> PixelLikelihood:
        """The likelihoods of the codes of an image ``times`` as large as ``pixels`` (3, h, w) in [0, 1]."""
        device = next(self.images.parameters()).device
        large = F.interpolate(pixels[None].to(device), scale_factor=times, mode="bicubic").clamp(0, 1)
        return PixelLikelihood(self.images.features(large)[0], self.images.quantizer, slope, self.width)


@torch.inference_mode()
def neighbour_distance(quantizer: Quantizer) -> float:
    """The median squared distance between a code and its nearest neighbour."""
    codebook = quantizer.codebook.float()
    nearest = []
    for start in range(0, len(codebook), 1024):
        distances = quantizer.distances(codebook[start : start + 1024])
        distances[torch.arange(len(distances)), start + torch.arange(len(distances))] = torch.inf
        nearest.append(distances.min(1).values)
    return float(torch.cat(nearest).clamp(min=0).median())
