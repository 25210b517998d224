"""CogView2's released transformers as ours.

CogLM is written under the names of the toolkit that CogView's later files have, without its precision
tricks: Sandwich-LN, no PB-relaxation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cogview.importers.cogview1 import infer_config, rename
from cogview.transformer.config import TransformerConfig


def coglm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released CogLM's tensors under our names; CogViewError for a name that is none of its own."""
    return {rename(name): tensor for name, tensor in state.items()}


def coglm_config(state: Mapping[str, Tensor], heads: int | None = None) -> TransformerConfig:
    """The configuration of a state dict under our names; heads: by default one for 64 of the width."""
    return infer_config(state, heads)
