"""LPIPS: the perceptual distance used to train and evaluate image tokenizers (Zhang et al., 2018).

The network (VGG16 or AlexNet convolutions and the learned linear heads) is read from one safetensors file
written by ``cogview import lpips``; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.tensors import load_module

Network = Literal["vgg16", "alexnet"]

# Channels; "M" is 2x2 max pooling. LPIPS compares the activations after the last convolution of each group.
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ALEXNET = (
    (64, 11, 4, 2),
    (192, 5, 1, 2),
    (384, 3, 1, 1),
    (256, 3, 1, 1),
    (256, 3, 1, 1),
)  # out, kernel, stride, pad


# Smallest side that leaves one pixel after the strides of the first 1, 2, ... groups.
SMALLEST = {"vgg16": (1, 2, 4, 8, 16), "alexnet": (7, 15, 31, 31, 31)}


def _vgg16() -> list[nn.Sequential]:
    groups, width = [], 3
    for i, channels in enumerate(VGG16):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
        groups.append(nn.Sequential(*layers))
    return groups


def _alexnet() -> list[nn.Sequential]:
    groups, width = [], 3
    for i, (out, kernel, stride, pad) in enumerate(ALEXNET):
        layers: list[nn.Module] = [nn.MaxPool2d(3, 2)] if i in (1, 2) else []
        layers += [nn.Conv2d(width, out, kernel, stride, pad), nn.ReLU()]
        groups.append(nn.Sequential(*layers))
        width = out
    return groups


class LPIPS(nn.Module):
    """Perceptual distance between images in [0, 1], ``(batch, 3, H, W)`` each, to ``(batch,)``; 0 is equal.

    Args:
        network: ``vgg16`` (the usual choice) or ``alexnet`` (13 times cheaper).
        depth: how many of the five groups are compared; fewer are cheaper, five are LPIPS.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: Network = "vgg16", depth: int = 5) -> None:
        super().__init__()
        self.network, self.depth = network, depth
        self.groups = nn.ModuleList(_vgg16() if network == "vgg16" else _alexnet())
        widths = [c[-1] for c in VGG16] if network == "vgg16" else [a[0] for a in ALEXNET]
        self.heads = nn.ParameterList([torch.ones(w) for w in widths])
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | Path, network: Network = "vgg16", depth: int = 5) -> LPIPS:
        """Read the weights of ``network`` from ``path``.

        Raises:
            CogViewError: the file is missing, damaged, or holds another network.
        """
        try:
            return load_module(lambda: cls(network, depth), path, f"{network} LPIPS weights").eval()
        except CogViewError as error:
            raise CogViewError(f"cannot read {network} LPIPS weights: {error}") from None

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations of each compared group, normalised to unit length over the channels."""
        x = (images * 2 - 1 - self.shift) / self.scale
        activations = []
        for group in list(self.groups)[: self.depth]:
            x = group(x)
            activations.append(x * torch.rsqrt(x.pow(2).sum(1, keepdim=True) + 1e-10))
        return activations

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        smallest = SMALLEST[self.network][self.depth - 1]
        if min(a.shape[-2:]) < smallest:
            side = min(a.shape[-2:])
            raise CogViewError(
                f"LPIPS with {self.network} needs images of at least {smallest} pixels a side, not {side}; "
                "use larger images, or the network vgg16, which takes 16"
            )
        total = a.new_zeros(a.shape[0])
        with torch.no_grad():
            target = self.features(b)
        for fa, fb, head in zip(self.features(a), target, self.heads, strict=False):
            total = total + ((fa - fb).pow(2) * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return total
