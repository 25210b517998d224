"""CogView2's released transformers as ours.

CogLM is written under the names of the toolkit that CogView's later files have, without its precision
tricks: Sandwich-LN, no PB-relaxation. The super-resolution models are whole CogLMs again, with positions for
the larger picture; the direct one has projections of its own for the attention of that picture's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cogview.importers.cogview1 import Extras, Shapes, infer_config, rename
from cogview.transformer.config import TransformerConfig


def coglm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released CogLM's tensors under our names; CogViewError for a name that is none of its own."""
    return {rename(name): tensor for name, tensor in state.items()}


def coglm_config(state: Mapping[str, Tensor], heads: int | None = None) -> TransformerConfig:
    """The configuration of a state dict under our names; heads: by default one for 64 of the width."""
    return infer_config(state, heads)


EXTRA_POSITIONS = "extra_positions.weight"
MIXIN_POSITIONS = "mixins.extra_position_embedding.position_embeddings.weight"
MIXIN_ATTENTION = re.compile(r"mixins\.attention_plus\.(query_key_value|dense)\.(\d{1,4})\.(weight|bias)")
PROJECTIONS = {"query_key_value": "qkv", "dense": "out"}


def iterative_name(key: str) -> str | None:
    """Our name of what an iterative super-resolution model adds to a transformer."""
    return EXTRA_POSITIONS if key == MIXIN_POSITIONS else None


def direct_name(key: str) -> str | None:
    """Our name of what a direct super-resolution model adds to a transformer."""
    if found := MIXIN_ATTENTION.fullmatch(key):
        return f"blocks.{found[2]}.decoder_attention.{PROJECTIONS[found[1]]}.{found[3]}"
    return iterative_name(key)


def iterative_shapes(config: TransformerConfig, found: Shapes) -> Shapes:
    """As many positions as there are, of the transformer's width."""
    return {EXTRA_POSITIONS: torch.Size((*found.get(EXTRA_POSITIONS, (0,))[:1], config.hidden))}


def direct_shapes(config: TransformerConfig, found: Shapes) -> Shapes:
    """Positions, and the shapes of every layer's attention once more."""
    h, shapes = config.hidden, iterative_shapes(config, found)
    sizes = {"qkv.weight": (3 * h, h), "qkv.bias": (3 * h,), "out.weight": (h, h), "out.bias": (h,)}
    for i in range(config.layers):
        shapes |= {f"blocks.{i}.decoder_attention.{name}": torch.Size(size) for name, size in sizes.items()}
    return shapes


DIRECT, ITERATIVE = Extras(direct_name, direct_shapes), Extras(iterative_name, iterative_shapes)
