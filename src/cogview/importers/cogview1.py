"""CogView's released transformers (base, caption, super-resolution) as a ``Transformer``.

Two layouts exist: the original one and that of the later toolkit, whose only difference is the name of the
token embeddings. CogView2's CogLM has the toolkit's. Model-parallel shards are merged.

A checkpoint of 8 GB is never in memory: its files are mapped, names and shapes are compared first, and then
the numbers pass through a few rows at a time.
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

HEAD_DIM = 64  # of every released model; the weights themselves do not tell
BLOCK = 8 << 20  # bytes of a tensor that are looked at at a time
WINDOW = 128 << 20  # bytes read until the files are mapped again, so that they stop counting as memory

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
    _same_tensors(states)
    return {name: torch.cat([*_merged(name, [state[name] for state in states])]) for name in states[0]}


def _same_tensors(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Every rank has the same names, with the same shapes."""
    for state in states[1:]:
        if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in states[0].items()}:
            raise CogViewError("the model-parallel shards do not hold the same tensors")


def _merged(name: str, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """The merged tensor in blocks that stand one after the other along the first dimension."""
    if len(parts) > 1 and name.endswith(SPLIT_COLUMNS):
        yield from (torch.cat(rows, dim=1) for rows in zip(*map(_rows, parts), strict=True))
    elif len(parts) > 1 and name.endswith(SPLIT_THIRDS):
        thirds = [part.chunk(3) for part in parts]
        yield from (rows for i in range(3) for third in thirds for rows in _rows(third[i]))
    else:
        for part in parts if name.endswith(SPLIT_ROWS) else parts[:1]:
            yield from _rows(part)


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in blocks of rows."""
    per_row = max(1, tensor.nbytes // max(1, len(tensor)))
    yield from torch.split(tensor, max(1, BLOCK // per_row))


def _merged_shape(name: str, shape: torch.Size, ranks: int) -> torch.Size:
    """The shape of what ``ranks`` tensors of a shape merge to."""
    sizes = list(shape)
    dimension = 1 if name.endswith(SPLIT_COLUMNS) else 0
    if name.endswith((*SPLIT_COLUMNS, *SPLIT_ROWS, *SPLIT_THIRDS)) and len(sizes) > dimension:
        sizes[dimension] *= ranks
    return torch.Size(sizes)


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

    rename: our name of a released key; configure: its configuration, from that of the plain transformer and
    the shapes found.
    """

    rename: Callable[[str], str]
    configure: Callable[[TransformerConfig, Shapes], TransformerConfig]


NO_EXTRAS = Extras(rename, lambda config, found: config)


@dataclass(frozen=True)
class Released:
    """A released transformer that was opened: every name and shape is right, no weight is read yet.

    files: one a model-parallel rank; shapes: of the merged tensors under our names, in the model's order.
    """

    files: tuple[Path, ...]
    config: TransformerConfig
    shapes: Shapes
    extras: Extras = NO_EXTRAS

    def with_rows(self, rows: int) -> Released:
        """With the first ``rows`` of the vocabulary only; the others are padding."""
        shapes = self.shapes | {"tokens.weight": torch.Size((rows, self.config.hidden))}
        return replace(self, config=self.config.model_copy(update={"vocab_size": rows}), shapes=shapes)

    def tensors(self) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """Name and blocks (see :func:`_merged`) of every tensor, to be used at once and let go."""
        states, seen = _open(self.files, self.extras), 0
        mapped = all(map(is_mapped, self.files))
        for name, shape in self.shapes.items():
            if mapped and seen > WINDOW:
                states, seen = _open(self.files, self.extras), 0
            seen += sum(state[name].nbytes for state in states)
            yield name, _first_rows(_merged(name, [state[name] for state in states]), shape[0])

    def state(self) -> dict[str, Tensor]:
        """All weights, each in memory of its own, in the dtype they have."""
        return {name: torch.cat([*blocks]) for name, blocks in self.tensors()}


def _open(files: Sequence[Path], extras: Extras = NO_EXTRAS) -> list[dict[str, Tensor]]:
    """The weights of every rank under our names, not read yet."""
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
    """Open a released checkpoint and compare all that is in it with what belongs there.

    Args:
        source: the directory with the tracker file or with the ``.pt`` files, or the only such file.
        heads: attention heads; by default what ``model_config.json`` says, else one for 64 of the width.
        released: see :func:`infer_config`.
        extras: what the model has besides a transformer.

    Raises:
        CogViewError: files missing, damaged, unsafe or of another model.
    """
    files = shards(source)
    states = _open(files, extras)
    for path in files:
        check_sums(path)
    _same_tensors(states)
    found = {name: _merged_shape(name, x.shape, len(files)) for name, x in states[0].items()}
    said = model_config(source)
    empty = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    config = infer_config(empty, heads or said.get("num_attention_heads"), released)
    config = extras.configure(config, found)
    shapes = {name: tensor.shape for name, tensor in Transformer.shapes(config).items()}
    _compare(source, found, shapes)
    _compare_with_said(source, said, config)
    if config.heads % len(files):
        raise CogViewError(f"{source}: {config.heads} heads do not divide into {len(files)} shards")
    return Released(tuple(files), config, shapes, extras)


def _compare(source: str | Path, found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size]) -> None:
    for name in sorted(set(expected) ^ set(found)):
        raise CogViewError(f"{source}: {name} is {'missing' if name in expected else 'one too many'}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise CogViewError(f"{source}: {name} is {tuple(found[name])}, expected {tuple(shape)}")


def _compare_with_said(source: str | Path, said: Mapping[str, Any], config: TransformerConfig) -> None:
    """``model_config.json`` may not contradict the weights."""
    for key, size in {"num_layers": config.layers, "hidden_size": config.hidden}.items():
        if key in said and said[key] != size:
            raise CogViewError(
                f"{source}: the weights have {key} {size}, model_config.json says {said[key]!r}"
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

    ``progress`` is called with the bytes of every block that was written.

    Raises:
        CogViewError: the disk is full, or a weight is not finite in ``dtype``.
    """
    tensors = ((name, _finite(name, blocks, dtype)) for name, blocks in opened.tensors())
    storage.write(target, opened.config, opened.shapes, tensors, dtype, progress)


def _finite(name: str, blocks: Iterator[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    for block in blocks:
        numbers = block.to(dtype)
        if not numbers.isfinite().all():
            raise CogViewError(f"the checkpoint's {name} holds a number that is not finite in {dtype}")
        yield numbers


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
