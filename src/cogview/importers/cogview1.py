"""CogView's released transformers (base, caption, super-resolution) as a ``Transformer``.

Two layouts exist: the original one and that of the later toolkit, whose only difference is the name of the
token embeddings. CogView2's CogLM has the toolkit's. Model-parallel shards are merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.checkpoint import load_weights, model_config, shards
from cogview.transformer import storage
from cogview.transformer.model import Transformer, TransformerConfig

HEAD_DIM = 64  # of every released model; the weights themselves do not tell

TOP = {
    "word_embeddings": "tokens",
    "transformer.word_embeddings": "tokens",
    "transformer.position_embeddings": "positions",
    "transformer.final_layernorm": "norm",
}
LAYER = {
    "input_layernorm": "attention_branch.norm_in",
    "third_layernorm": "attention_branch.norm_out",
    "post_attention_layernorm": "mlp_branch.norm_in",
    "fourth_layernorm": "mlp_branch.norm_out",
    "attention.query_key_value": "attention.qkv",
    "attention.dense": "attention.out",
    "mlp.dense_h_to_4h": "mlp.up",
    "mlp.dense_4h_to_h": "mlp.down",
}
SPLIT_ROWS = ("tokens.weight", "mlp.up.weight", "mlp.up.bias")
SPLIT_COLUMNS = ("attention.out.weight", "mlp.down.weight")
SPLIT_THIRDS = ("attention.qkv.weight", "attention.qkv.bias")


def rename(key: str) -> str:
    """Our name of a released key; CogViewError if it is none of the transformer's."""
    module, _, kind = key.rpartition(".")
    if kind in ("weight", "bias"):
        if module in TOP:
            return f"{TOP[module]}.{kind}"
        inside = re.fullmatch(r"transformer\.layers\.(\d{1,4})\.(.+)", module)
        if inside and inside[2] in LAYER:
            return f"blocks.{inside[1]}.{LAYER[inside[2]]}.{kind}"
    raise CogViewError(f"unexpected key {key!r}; is this a CogView transformer?")


def merge_shards(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One state dict from those of the model-parallel ranks, in rank order, all under our names.

    Embeddings and the first feed-forward matrix are split by rows, what ends a branch by columns; each rank
    has its rows of query, of key and of value. The rest is the same on every rank.
    """
    if len({frozenset(state) for state in states}) != 1:
        raise CogViewError("the model-parallel shards do not hold the same tensors")
    return {name: _merge(name, [state[name] for state in states]) for name in states[0]}


def _merge(name: str, parts: list[Tensor]) -> Tensor:
    if name.endswith(SPLIT_THIRDS):
        thirds = [part.chunk(3) for part in parts]
        return torch.cat([third[i] for i in range(3) for third in thirds])
    if name.endswith(SPLIT_ROWS):
        return torch.cat(parts)
    if name.endswith(SPLIT_COLUMNS):
        return torch.cat(parts, dim=1)
    return parts[0]


def infer_config(
    state: Mapping[str, Tensor], heads: int | None = None, released: bool = False
) -> TransformerConfig:
    """The configuration of a state dict under our names; sizes are read from the tensors.

    ``released`` follows the released code bit for bit, with its batch-dependent LayerNorm; otherwise plain
    LayerNorm and fused kernels, as in the authors' later toolkit.
    """
    try:
        vocab_size, hidden = state["tokens.weight"].shape
        max_positions = state["positions.weight"].shape[0]
        ffn = state["blocks.0.mlp.up.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CogViewError(f"the checkpoint is not a CogView transformer ({error})") from error
    sizes = dict(
        layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        hidden=hidden,
        heads=heads or max(1, hidden // HEAD_DIM),
        vocab_size=vocab_size,
        max_positions=max_positions,
        ffn_multiple=ffn // hidden,
        norm="sandwich" if "blocks.0.attention_branch.norm_out.weight" in state else "pre",
        norm_relax="tensor" if released else "none",
        numerics="released" if released else "fused",
        hidden_dropout=0.1,
        attention_dropout=0.1,
    )
    return validate(TransformerConfig, sizes, "the checkpoint")


def read_released(
    directory: str | Path, heads: int | None = None, released: bool = False
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Configuration and weights, in the dtype they have, of a released checkpoint's directory.

    Args:
        directory: the one with the tracker file, or with the ``.pt`` files.
        heads: attention heads; by default what ``model_config.json`` says, else one for 64 of the width.
        released: see :func:`infer_config`.

    Raises:
        CogViewError: files missing, damaged, unsafe or of another model.
    """
    parts = [
        {rename(key): tensor for key, tensor in load_weights(path).items()} for path in shards(directory)
    ]
    state = merge_shards(parts)
    config = infer_config(state, heads or model_config(directory).get("num_attention_heads"), released)
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    for name in sorted(set(expected) ^ set(state)):
        raise CogViewError(f"{directory}: {name} is {'missing' if name in expected else 'one too many'}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise CogViewError(
                f"{directory}: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
    return config, state


def import_transformer(
    source: str | Path,
    target: str | Path,
    heads: int | None = None,
    released: bool = False,
    dtype: torch.dtype = torch.float16,
) -> TransformerConfig:
    """Write a released checkpoint as a model directory that ``Transformer.from_directory`` reads."""
    config, state = read_released(source, heads, released)
    storage.save(target, config, state, dtype)
    return config
