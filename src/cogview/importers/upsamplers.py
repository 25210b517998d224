"""Imports CogView2's released super-resolution models.

Both have CogLM's tensors and these::

    mixins.extra_position_embedding.position_embeddings.weight    extra_positions.weight
    mixins.attention_plus.query_key_value.{i}.*                   blocks.{i}.attention.decoder_qkv.*
    mixins.attention_plus.dense.{i}.*                             blocks.{i}.attention.decoder_out.*

Direct super-resolution has all three; the tensors ``transformer.*`` in its file are CogLM's, unchanged.
Iterative super-resolution has the first, and its own transformer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.importers.cogview1 import Extras, Shapes, infer_config, rename
from cogview.transformer.config import TransformerConfig

POSITIONS = "mixins.extra_position_embedding.position_embeddings.weight"
PLUS = {"query_key_value": "decoder_qkv", "dense": "decoder_out"}


def super_resolution_name(key: str) -> str:
    """The name in ``Transformer`` of a released key; raises CogViewError for an unknown key."""
    if key == POSITIONS:
        return "extra_positions.weight"
    plus = re.fullmatch(r"mixins\.attention_plus\.(\w+)\.(\d{1,4})\.(weight|bias)", key)
    if plus and plus[1] in PLUS:
        return f"blocks.{plus[2]}.attention.{PLUS[plus[1]]}.{plus[3]}"
    return rename(key)


def super_resolution_config(
    state: Mapping[str, Tensor], heads: int | None = None, decoder_from: int | None = None
) -> TransformerConfig:
    """Infer the configuration from a state dict with renamed keys.

    heads: default: hidden size / 64. decoder_from: index of the large image's first token in a sequence
    (release: 496). Raises CogViewError unless it is given exactly for a model with decoder projections.
    """
    if "extra_positions.weight" not in state:
        raise CogViewError(
            "the checkpoint has no positions for a large image; it is not a super-resolution model"
        )
    has_decoder = any(".decoder_qkv." in name for name in state)
    if has_decoder != (decoder_from is not None):
        what = "has" if has_decoder else "has no"
        raise CogViewError(
            f"the checkpoint {what} decoder projections: is it the other super-resolution model?"
        )
    more = {"extra_positions": len(state["extra_positions.weight"]), "decoder_from": decoder_from}
    return infer_config(state, heads).model_copy(update=more)


def extras(decoder_from: int | None) -> Extras:
    """How a checkpoint of one of these models differs from that of a plain transformer."""

    def configure(config: TransformerConfig, shapes: Shapes) -> TransformerConfig:
        empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        return super_resolution_config(empty, config.heads, decoder_from)

    return Extras(super_resolution_name, configure)
