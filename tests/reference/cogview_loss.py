"""The loss of CogView's released training script."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.vocabulary import Vocabulary


def released_loss(
    logits: Tensor,
    inputs: Tensor,
    targets: Tensor,
    mask: Tensor,
    vocabulary: Vocabulary,
    text_scale: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the released training script.

    A token's weight is ``mask`` (batch, length), times ``text_scale`` where the *input* is no image code:
    the first code of a picture counts as text, [EOI1] as image. ``logits`` is (batch, length, rows) over
    the padded vocabulary. Returns the weighted mean, and ``image_loss`` and ``text_loss`` as that script
    logs them.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    image = inputs.flatten() < vocabulary.image_codes
    counted = mask.flatten() > 0
    weights = mask.flatten() * torch.where(image, 1.0, text_scale)
    parts = {"image_loss": losses[image & counted].mean(), "text_loss": losses[~image & counted].mean()}
    return (losses * weights).sum() / weights.sum(), {name: part.detach() for name, part in parts.items()}
