"""A patch discriminator for tokenizers trained with an adversarial loss (VQGAN; CogView, section 3.4).

The weight of the adversarial loss adapts to the ratio of gradients at the decoder's last layer (Esser et al.,
2021, equation 7), and the loss starts late, when reconstructions already look like images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """One score per patch: ``(batch, 3, H, W)`` in [0, 1] to ``(batch, 1, h, w)``."""

    def __init__(self, channels: int = 64, layers: int = 2) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for _ in range(layers - 1):
            stack += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        stack += [nn.Conv2d(width, 2 * width, 3, 1, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2)]
        self.stack = nn.Sequential(*stack, nn.Conv2d(2 * width, 1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.stack(images * 2 - 1)
        return scores


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss: zero for real scores above 1 and fake scores below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    limit: float = 10.0,
    total: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """|d reconstruction / d last| / |d adversarial / d last|, clamped to [0, limit], without gradient.

    total: sums the gradient of this process's rows over all processes.
    """
    d_reconstruction = total(torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0])
    d_adversarial = total(torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0])
    weight: Tensor = (d_reconstruction.norm() / (d_adversarial.norm() + 1e-4)).clamp(0, limit).detach()
    return weight
