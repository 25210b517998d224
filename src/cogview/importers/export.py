"""Exports a family's transformer to the released layout, for use with the original code.

The exact inverse of ``cogview1.py``: the released names in the released order, in one file or in
model-parallel shards that the original code (``megatron``) or the authors' later toolkit (``sat``) loads. One
shard is in memory at a time, and a model in one file is copied from disk to disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cogview.checkpoints.bundle import ModelBundle
from cogview.errors import CogViewError
from cogview.importers.checkpoint import MODEL_CONFIG, TRACKERS
from cogview.importers.cogview1 import LAYER, SPLIT_COLUMNS, SPLIT_ROWS, SPLIT_THIRDS, TOP
from cogview.importers.family import check_new, check_space
from cogview.transformer import storage
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

Layout = Literal["megatron", "sat"]
MULTIPLE = 128  # rows of the vocabulary on each rank are a multiple of this in the original code
ITERATION = 1  # of a checkpoint that was not trained here
ORDER = (  # of a layer's modules in the original state dict
    "input_layernorm",
    "attention.query_key_value",
    "attention.dense",
    "post_attention_layernorm",
    "third_layernorm",
    "fourth_layernorm",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)


def released_names(config: TransformerConfig, layout: Layout) -> dict[str, str]:
    """Released name to name in ``Transformer``, in the released order."""
    tokens = "word_embeddings" if layout == "megatron" else "transformer.word_embeddings"
    modules = [tokens, "transformer.position_embeddings"]
    modules += [f"transformer.layers.{i}.{part}" for i in range(config.layers) for part in ORDER]
    ours = Transformer.shapes(config)
    names = {
        f"{m}.{kind}": f"{_our_module(m)}.{kind}" for m in [*modules, _FINAL] for kind in ("weight", "bias")
    }
    return {released: name for released, name in names.items() if name in ours}


_FINAL = "transformer.final_layernorm"


def _our_module(released: str) -> str:
    inside = re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)", released)
    return f"blocks.{inside[1]}.{LAYER[inside[2]]}" if inside else TOP[released]


def export_transformer(
    family: ModelBundle,
    role: str,
    out: str | Path,
    layout: Layout = "megatron",
    ranks: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a role's transformer as a checkpoint of the original code; returns the files with the weights.

    Args:
        out: a new directory.
        ranks: number of model-parallel shards. The vocabulary is padded to a multiple of 128 per shard, as
            the original code expects, by repeating the last row;
            :func:`cogview.importers.family.import_release` removes the padding.
        progress: called with the number of written shards and their total.

    Raises:
        CogViewError: the original code does not support the model, ``ranks`` does not divide the heads, or
            ``out`` exists.
    """
    out, config = Path(out), family.check(role)
    _check(config, ranks)
    check_new(out)
    check_space(out, sum(x.numel() for x in Transformer.shapes(config).values()) * torch.float16.itemsize)
    names, folder = released_names(config, layout), out / str(ITERATION)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for rank in range(ranks):
        files.append(folder / f"mp_rank_{rank:02d}_model_states.pt")
        source = family.directory / family.role(role).directory
        _write_rank(source, config, names, files[-1], rank, ranks)
        if progress is not None:
            progress(rank + 1, ranks)
    if layout == "sat":
        (out / MODEL_CONFIG).write_text(json.dumps(_sat_config(config, ranks), indent=2) + "\n")
    (out / TRACKERS[layout == "sat"]).write_text(str(ITERATION))
    return files


def _check(config: TransformerConfig, ranks: int) -> None:
    """Raise CogViewError if the original code does not support the model."""
    if config.norm == "post" or config.ffn_multiple != 4:
        raise CogViewError(
            f"the released code does not support norm {config.norm} with ffn_multiple "
            f"{config.ffn_multiple}; it supports pre and sandwich with 4"
        )
    if config.heads % ranks:
        raise CogViewError(f"{config.heads} heads do not divide into {ranks} shards; choose a divisor")


def _write_rank(
    source: Path, config: TransformerConfig, names: Mapping[str, str], path: Path, rank: int, ranks: int
) -> None:
    """Write one shard, under a temporary name until it is complete."""
    partial = path.with_suffix(".part")
    try:
        with storage.open_weights(source, Transformer.shapes(config)) as file:
            share = _Share(file, rank, ranks)
            module = {released: share.of(name) for released, name in names.items()}
            torch.save({"module": module, "iteration": ITERATION}, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise CogViewError(f"{path}: cannot be written ({str(error).splitlines()[0]})") from error


class _Share:
    """A rank's part of each tensor; only that part is read."""

    def __init__(self, file: Any, rank: int, ranks: int) -> None:
        self.file, self.rank, self.ranks = file, rank, ranks

    def of(self, name: str) -> Tensor:
        """The rank's part of a tensor; with one rank the entire tensor, mapped from the file."""
        if self.ranks == 1 or not name.endswith((*SPLIT_ROWS, *SPLIT_COLUMNS, *SPLIT_THIRDS)):
            return self.file.get_tensor(name)  # type: ignore[no-any-return]
        tensor = self.file.get_slice(name)
        shape = tensor.get_shape()
        if name.endswith(SPLIT_COLUMNS):
            return tensor[:, self._part(shape[1])].clone()  # type: ignore[no-any-return]
        if name.endswith(SPLIT_THIRDS):
            third = shape[0] // 3
            parts = [self._part(third, start) for start in range(0, shape[0], third)]
            return torch.cat([tensor[part] for part in parts])
        if name == "tokens.weight":
            return self._vocabulary(tensor, shape[0])
        return tensor[self._part(shape[0])].clone()  # type: ignore[no-any-return]

    def _vocabulary(self, table: Any, rows: int) -> Tensor:
        """The rank's rows of the table, padded by repeating its last row."""
        padded = -(-rows // (MULTIPLE * self.ranks)) * MULTIPLE * self.ranks
        part = self._part(padded)
        parts = [table[min(part.start, rows) : min(part.stop, rows)]]
        missing = part.stop - max(rows, part.start)
        if missing > 0:
            parts.append(table[rows - 1 : rows].expand(missing, -1))
        return torch.cat(parts)

    def _part(self, size: int, start: int = 0) -> slice:
        share = size // self.ranks
        return slice(start + self.rank * share, start + (self.rank + 1) * share)


def _sat_config(config: TransformerConfig, ranks: int) -> dict[str, Any]:
    """The ``model_config.json`` of the later toolkit."""
    sandwich = config.norm == "sandwich"
    return {
        "num_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.max_positions,
        "sandwich_ln": sandwich,
        "layernorm_order": "sandwich" if sandwich else "pre",
        "model_parallel_size": ranks,
    }
