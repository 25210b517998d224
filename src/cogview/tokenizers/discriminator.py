"""A patch discriminator for tokenizers trained with an adversarial term (VQGAN; CogView, section 3.4).

The generator's adversarial weight adapts to the ratio of gradients at the decoder's last layer (Esser et al.,
2021, equation 7) and starts late, when reconstructions already look like images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """One score for every patch: ``(batch, 3, H, W)`` in [0, 1] to ``(batch, 1, h, w)``."""

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
    """Discriminator loss: real scores above 1, fake ones below -1 cost nothing."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    limit: float = 10.0,
    whole: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """|d reconstruction / d last| / |d adversarial / d last|, clamped to [0, limit], without gradient.

    whole: makes of a gradient over this process's rows that over the whole batch.
    """
    wanted = whole(torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0])
    given = whole(torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0])
    weight: Tensor = (wanted.norm() / (given.norm() + 1e-4)).clamp(0, limit).detach()
    return weight
