"""CogView's released transformers (base, caption, super-resolution) as a ``Transformer``.

There are two layouts: the original one and that of the later toolkit, which differ only in the name of the
token embeddings. CogView2's CogLM uses the toolkit's. Model-parallel shards are merged.

A checkpoint of 8 GB is never in memory as a whole: its files are memory-mapped, names and shapes are compared
first, and then the weights are converted a few rows at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.checkpoint import check_sums, is_mapped, map_weights, model_config, shards
from cogview.transformer import storage
from cogview.transformer.model import Transformer, TransformerConfig

HEAD_DIM = 64  # of all released models; it cannot be inferred from the weights
BLOCK = 8 << 20  # bytes of a tensor that are processed at a time
WINDOW = 128 << 20  # bytes read before the files are mapped again, so that they do not count as used memory

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
SPLIT_COLUMNS = ("attention.out.weight", "attention.decoder_out.weight", "mlp.down.weight")
SPLIT_THIRDS = tuple(
    f"attention.{name}qkv.{kind}" for name in ("", "decoder_") for kind in ("weight", "bias")
)


def rename(key: str) -> str:
    """The name in ``Transformer`` of a released key; raises CogViewError for an unknown key."""
    module, _, kind = key.rpartition(".")
    if kind in ("weight", "bias"):
        if module in TOP:
            return f"{TOP[module]}.{kind}"
        inside = re.fullmatch(r"transformer\.layers\.(\d{1,4})\.(.+)", module)
        if inside and inside[2] in LAYER:
            return f"blocks.{inside[1]}.{LAYER[inside[2]]}.{kind}"
    raise CogViewError(f"unexpected key {key!r}; is this a CogView transformer?")


def merge_shards(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Merge the state dicts of the model-parallel ranks, in rank order, with renamed keys.

    Embeddings and the first feed-forward matrix are split by rows, output projections by columns; each rank
    has its rows of query, key and value. All other tensors are the same on every rank.
    """
    _same_tensors(states)
    return {name: torch.cat([*_merged(name, [state[name] for state in states])]) for name in states[0]}


def _same_tensors(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise CogViewError if ranks differ in names or shapes."""
    for state in states[1:]:
        if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in states[0].items()}:
            raise CogViewError("the model-parallel shards do not hold the same tensors")


def _merged(name: str, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """The merged tensor in blocks along the first dimension."""
    if len(parts) > 1 and name.endswith(SPLIT_COLUMNS):
        yield from (torch.cat(rows, dim=1) for rows in zip(*map(_rows, parts), strict=True))
    elif len(parts) > 1 and name.endswith(SPLIT_THIRDS):
        thirds = [part.chunk(3) for part in parts]
        yield from (rows for i in range(3) for third in thirds for rows in _rows(third[i]))
    else:
        for part in parts if name.endswith(SPLIT_ROWS) else parts[:1]:
            yield from _rows(part)


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    """Split a tensor into blocks of rows."""
    per_row = max(1, tensor.nbytes // max(1, len(tensor)))
    yield from torch.split(tensor, max(1, BLOCK // per_row))


def _merged_shape(name: str, shape: torch.Size, ranks: int) -> torch.Size:
    """The shape of a merged tensor, from the shape on each rank."""
    sizes = list(shape)
    dimension = 1 if name.endswith(SPLIT_COLUMNS) else 0
    if name.endswith((*SPLIT_COLUMNS, *SPLIT_ROWS, *SPLIT_THIRDS)) and len(sizes) > dimension:
        sizes[dimension] *= ranks
    return torch.Size(sizes)


def infer_config(
    state: Mapping[str, Tensor], heads: int | None = None, released: bool = False
) -> TransformerConfig:
    """Infer the configuration from a state dict with renamed keys.

    released: follow the released code bit for bit, with its batch-dependent LayerNorm; default: plain
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
        ffn_multiple=ffn // max(1, hidden),
        norm="sandwich" if "blocks.0.attention_branch.norm_out.weight" in state else "pre",
        norm_relax="tensor" if released else "none",
        numerics="released" if released else "fused",
        hidden_dropout=0.1,
        attention_dropout=0.1,
    )
    return validate(TransformerConfig, sizes, "the checkpoint")


Shapes = dict[str, torch.Size]


@dataclass(frozen=True)
class Extras:
    """How a model differs from a plain transformer.

    rename: maps a released key to its name in ``Transformer``; configure: returns the configuration, given
    that of the plain transformer and the checkpoint's shapes.
    """

    rename: Callable[[str], str]
    configure: Callable[[TransformerConfig, Shapes], TransformerConfig]


NO_EXTRAS = Extras(rename, lambda config, shapes: config)


@dataclass(frozen=True)
class Released:
    """An opened checkpoint: names and shapes are checked, no weights are read yet.

    files: one per model-parallel rank; shapes: of the merged tensors, with renamed keys in the model's order.
    """

    files: tuple[Path, ...]
    config: TransformerConfig
    shapes: Shapes
    extras: Extras = NO_EXTRAS

    def with_rows(self, rows: int) -> Released:
        """The same with only the first ``rows`` of the vocabulary; the others are padding."""
        shapes = self.shapes | {"tokens.weight": torch.Size((rows, self.config.hidden))}
        return replace(self, config=self.config.model_copy(update={"vocab_size": rows}), shapes=shapes)

    def tensors(self) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """Name and blocks (see :func:`_merged`) of every tensor; consume the blocks before the next name."""
        states, read = _open(self.files, self.extras), 0
        mapped = all(map(is_mapped, self.files))
        for name, shape in self.shapes.items():
            if mapped and read > WINDOW:
                states, read = _open(self.files, self.extras), 0
            read += sum(state[name].nbytes for state in states)
            yield name, _first_rows(_merged(name, [state[name] for state in states]), shape[0])

    def state(self) -> dict[str, Tensor]:
        """All weights, copied into memory in their original dtype."""
        return {name: torch.cat([*blocks]) for name, blocks in self.tensors()}


def _open(files: Sequence[Path], extras: Extras = NO_EXTRAS) -> list[dict[str, Tensor]]:
    """The memory-mapped weights of every rank, with renamed keys."""
    states = []
    for path in files:
        weights = map_weights(path)
        try:
            states.append({extras.rename(key): tensor for key, tensor in weights.items()})
        except CogViewError as error:
            raise CogViewError(f"{path}: {error}") from None
    return states


def _first_rows(blocks: Iterator[Tensor], rows: int) -> Iterator[Tensor]:
    for block in blocks:
        yield block[:rows]
        rows -= len(block)
        if rows <= 0:
            return


def open_released(
    source: str | Path, heads: int | None = None, released: bool = False, extras: Extras = NO_EXTRAS
) -> Released:
    """Open a released checkpoint and check its names, shapes and checksums.

    Args:
        source: the directory with the tracker file or with the ``.pt`` files, or a single such file.
        heads: attention heads; default: as in ``model_config.json``, else hidden size / 64.
        released: see :func:`infer_config`.
        extras: how the model differs from a plain transformer.

    Raises:
        CogViewError: a file is missing, damaged, unsafe or of another model.
    """
    files = shards(source)
    states = _open(files, extras)
    for path in files:
        check_sums(path)
    _same_tensors(states)
    actual = {name: _merged_shape(name, x.shape, len(files)) for name, x in states[0].items()}
    stated = model_config(source)
    empty = {name: torch.empty(shape, device="meta") for name, shape in actual.items()}
    config = infer_config(empty, heads or stated.get("num_attention_heads"), released)
    config = extras.configure(config, actual)
    shapes = {name: tensor.shape for name, tensor in Transformer.shapes(config).items()}
    _compare_shapes(source, actual, shapes)
    _compare_config(source, stated, config)
    if config.heads % len(files):
        raise CogViewError(f"{source}: {config.heads} heads do not divide into {len(files)} shards")
    return Released(tuple(files), config, shapes, extras)


def _compare_shapes(
    source: str | Path, actual: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]
) -> None:
    for name in sorted(set(expected) ^ set(actual)):
        raise CogViewError(f"{source}: {name} is {'missing' if name in expected else 'one too many'}")
    for name, shape in expected.items():
        if actual[name] != shape:
            raise CogViewError(f"{source}: {name} is {tuple(actual[name])}, expected {tuple(shape)}")


def _compare_config(source: str | Path, stated: Mapping[str, Any], config: TransformerConfig) -> None:
    """Raise CogViewError if ``model_config.json`` contradicts the weights."""
    for key, size in {"num_layers": config.layers, "hidden_size": config.hidden}.items():
        if key in stated and stated[key] != size:
            raise CogViewError(
                f"{source}: the weights have {key} {size}, model_config.json says {stated[key]!r}"
            )


def read_released(
    source: str | Path, heads: int | None = None, released: bool = False
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Configuration and weights of a released checkpoint; see :func:`open_released`."""
    opened = open_released(source, heads, released)
    return opened.config, opened.state()


def write_model(
    opened: Released,
    target: str | Path,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write an opened checkpoint as a model directory that ``Transformer.from_directory`` reads.

    ``progress`` is called with the number of bytes of every written block.

    Raises:
        CogViewError: the disk is full, or a weight is not finite in ``dtype``.
    """
    tensors = ((name, _finite(name, blocks, dtype)) for name, blocks in opened.tensors())
    storage.write(target, opened.config, opened.shapes, tensors, dtype, progress)


def _finite(name: str, blocks: Iterator[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    for block in blocks:
        converted = block.to(dtype)
        if not converted.isfinite().all():
            raise CogViewError(f"the checkpoint's {name} holds a number that is not finite in {dtype}")
        yield converted


def import_transformer(
    source: str | Path,
    target: str | Path,
    heads: int | None = None,
    released: bool = False,
    dtype: torch.dtype = torch.float16,
) -> TransformerConfig:
    """Write a released checkpoint as a model directory; see :func:`open_released`."""
    opened = open_released(source, heads, released)
    write_model(opened, target, dtype)
    return opened.config
