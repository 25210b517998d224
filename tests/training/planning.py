"""What a small step keeps for its backward pass."""

import torch

from cogview.transformer.model import Transformer


def loss_of(model: Transformer, batch: int, length: int) -> torch.Tensor:
    ids = torch.zeros(batch, length, dtype=torch.int64)
    logits = model.logits(model(ids, torch.arange(length)))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
