"""Tiny transformers whose every parameter matters: norms and biases are random too."""

from typing import Any

import torch
from torch import Tensor

from cogview.transformer.model import Transformer, TransformerConfig


def tiny_config(**changes: Any) -> TransformerConfig:
    settings = {"layers": 2, "hidden": 24, "heads": 3, "vocab_size": 40, "max_positions": 32}
    return TransformerConfig(**(settings | changes))


def tiny_model(seed: int = 0, scale: float = 0.3, **changes: Any) -> Transformer:
    """In evaluation mode; weights large enough that a wrong mask or position shows."""
    model = Transformer(tiny_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(is_norm + scale * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(batch: int = 2, length: int = 9, vocab_size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random ids (b, l) and their indices (l,) as positions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (batch, length), generator=generator), torch.arange(length)
