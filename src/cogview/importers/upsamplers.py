"""CogView2's released super-resolution models under our names.

Both are CogLM's tensors and a few more::

    mixins.extra_position_embedding.position_embeddings.weight    extra_positions.weight
    mixins.attention_plus.query_key_value.{i}.*                   blocks.{i}.attention.decoder_qkv.*
    mixins.attention_plus.dense.{i}.*                             blocks.{i}.attention.decoder_out.*

Direct super-resolution has all three; what is called ``transformer.*`` in its file is CogLM's, unchanged.
Iterative super-resolution has the first, and a whole transformer of its own.
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
    """Our name of a released key; CogViewError if it is none of these models'."""
    if key == POSITIONS:
        return "extra_positions.weight"
    plus = re.fullmatch(r"mixins\.attention_plus\.(\w+)\.(\d{1,4})\.(weight|bias)", key)
    if plus and plus[1] in PLUS:
        return f"blocks.{plus[2]}.attention.{PLUS[plus[1]]}.{plus[3]}"
    return rename(key)


def super_resolution_config(
    state: Mapping[str, Tensor], heads: int | None = None, decoder_from: int | None = None
) -> TransformerConfig:
    """The configuration of a state dict under our names.

    heads: by default one for 64 of the width. decoder_from: where the large image begins in a sequence
    (release: 496); needed where the decoder has projections of its own, CogViewError otherwise.
    """
    if "extra_positions.weight" not in state:
        raise CogViewError(
            "the checkpoint has no positions of a large picture; it is no super-resolution model"
        )
    has_decoder = any(".decoder_qkv." in name for name in state)
    if has_decoder != (decoder_from is not None):
        what = "has" if has_decoder else "has no"
        raise CogViewError(
            f"the checkpoint {what} projections of a decoder: is it the other super-resolution?"
        )
    more = {"extra_positions": len(state["extra_positions.weight"]), "decoder_from": decoder_from}
    return infer_config(state, heads).model_copy(update=more)


def extras(decoder_from: int | None) -> Extras:
    """How a checkpoint of one of these models differs from a plain transformer's."""

    def configure(config: TransformerConfig, found: Shapes) -> TransformerConfig:
        empty = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
        return super_resolution_config(empty, config.heads, decoder_from)

    return Extras(super_resolution_name, configure)
