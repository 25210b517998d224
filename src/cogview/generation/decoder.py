"""The transformer for inference: the same function as ``Transformer.forward`` with a cache, optimised for
speed.

A decoding step at batch 1 is a few hundred small operations around one pass over the weights. The layers are
therefore plain functions over packed weights, activations are two-dimensional (rows, features), and the
output matrix is restricted to the rows that can be generated (for images their codes: 14 % of CogView's
vocabulary).

Linear layers are functions (rows, inputs) -> (rows, outputs), packed once for the processor, in four
variants:

- ``plain``      the weights as they are, on any device and in any dtype
- ``prepacked``  oneDNN's layout, on a CPU: twice as fast as ``plain`` from two rows on, and the result of a
                 row does not depend on the number of rows
- ``half``       one of the first two in bfloat16 or float16: inputs are rounded, results are not converted
                 back
- ``int8``       8-bit weights with one scale per output; inputs rounded to 8 bits with one scale per *row*,
                 so that rows stay independent (PyTorch's dynamic quantisation has one scale per batch)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.transformer.attention import Causal, View, Visibility
from cogview.transformer.attention.pattern import attend_in_parts
from cogview.transformer.block import Block, Branch, LayerNorm, relax
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.transformer.processor import adds_bytes_exactly, multiplies_bf16
from cogview.transformer.storage import HALF_DTYPES
from cogview.types import Precision

Linear = Callable[[Tensor], Tensor]
Attention = Callable[[Tensor, int], Tensor]  # query, key and value (t, 3h) of a layer -> (t, h)

ROWS = 16  # rows that weights are packed for; oneDNN's layouts for fewer rows are slower even for those
INT8 = 127


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for calling a model whose layers are stored in ``precision``: autocast for half precision."""
    if precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF_DTYPES[precision])


def plain(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """x @ weight.T + bias, then tanh-GELU if ``gelu``; weight (outputs, inputs), bias (outputs,)."""
    if gelu:
        return lambda x: F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return lambda x: F.linear(x, weight, bias)


def prepacked(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """:func:`plain` with a copy of the weights in oneDNN's layout.

    A single row is computed twice, since oneDNN sums in another order for a batch of one.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    after: tuple[Any, ...] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def linear(x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return product(x.expand(2, -1), packed, bias, *after)[:1]
        return product(x, packed, bias, *after)

    return linear


def half(
    weight: Tensor, bias: Tensor | None = None, gelu: bool = False, *, dtype: torch.dtype, packed: bool
) -> Linear:
    """:func:`plain` or :func:`prepacked` with weights, inputs and result in ``dtype``."""
    variant = prepacked if packed else plain
    linear = variant(weight.to(dtype), None if bias is None else bias.to(dtype), gelu)
    return lambda x: linear(x.to(dtype))


def int8(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """:func:`plain` in 8-bit integers with exact 32-bit sums, rescaled by row and by output."""
    scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / INT8  # (outputs,)
    quantized = (weight / scale[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantized, [ROWS, weight.shape[1]])
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    to_float: tuple[Any, ...] = (torch.float32, "none", [], "")
    offset = torch.zeros(weight.shape[0]) if bias is None else bias.float()
    levels = _levels()
    middle, half = levels + 1, torch.tensor(levels + 1.5)
    product = torch.ops.onednn.qlinear_pointwise.default

    def linear(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(levels)
        rounded = torch.addcdiv(half, x, step).to(torch.uint8)
        sums = product(rounded, 1.0, middle, packed, scale, zeros, None, 1.0, 0, *to_float)
        y = torch.addcmul(offset, sums, step)
        return F.gelu(y, approximate="tanh") if gelu else y

    return linear


def _levels() -> int:
    """Quantisation levels on each side of 0 for inputs: without VNNI, pairs of products must fit into 16
    bits, which needs 7-bit inputs."""
    return INT8 if adds_bytes_exactly() else INT8 // 2


def choose_linear(precision: Precision, device: torch.device, dtype: torch.dtype) -> Callable[..., Linear]:
    """The variant for a precision, device and weight dtype; raises CogViewError if there is none."""
    cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if precision == "int8":
        if not cpu:
            raise CogViewError("int8 needs an x86 CPU with oneDNN; use precision fp32")
        return int8
    if precision in HALF_DTYPES:
        packed = cpu and precision == "bf16" and multiplies_bf16()
        return partial(half, dtype=HALF_DTYPES[precision], packed=packed)
    return prepacked if cpu and dtype == torch.float32 else plain


@dataclass(frozen=True)
class Layer:
    """One layer: the LayerNorms of its two branches, and four linear layers."""

    attention: Branch
    mlp: Branch
    qkv: Linear
    out: Linear
    up: Linear  # with GELU
    down: Linear


@dataclass(frozen=True)
class Decoder:
    """A transformer's packed weights.

    tokens: (vocab_size, h); positions: (max_positions, h); head: returns the logits of the vocabulary's
    ``rows``; size: of all weights, in bytes; precision: of the layers.
    """

    config: TransformerConfig
    tokens: Tensor
    positions: Tensor
    layers: tuple[Layer, ...]
    norm: LayerNorm | None
    head: Linear
    rows: slice
    size: int = 0
    precision: Precision = "fp32"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.tokens.device

    @property
    def rounds(self) -> bool:
        """Whether layers round their inputs (on a CPU), which amplifies differences in the last bit."""
        return self.precision != "fp32" and self.device.type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the cache."""
        return HALF_DTYPES.get(self.precision, self.tokens.dtype)


def pack(model: Transformer, rows: slice | None = None, precision: Precision = "fp32") -> Decoder:
    """The weights of ``model`` as a decoder that gives logits of the vocabulary's ``rows`` (default: all).

    On a CPU the linear layers are copies, so ``model`` can be freed; elsewhere they share its weights.
    Attention scores are always float32, for which equation 4 makes no difference. In half precision only the
    linear layers are rounded; the residual stream, LayerNorms and logits are float32.
    """
    table = model.tokens.weight.detach()
    rows = slice(0, len(table)) if rows is None else rows
    linear = choose_linear(precision, table.device, table.dtype)
    layers = []
    for block in model.blocks:
        block = cast(Block, block)
        parts = (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down)
        packed = [linear(part.weight.detach(), part.bias.detach(), part is block.mlp.up) for part in parts]
        layers.append(Layer(block.attention_branch, block.mlp_branch, *packed))
    norm = model.norm if isinstance(model.norm, LayerNorm) else None
    if precision in HALF_DTYPES:
        linear = choose_linear("fp32", table.device, table.dtype)
    head = linear(table[rows])
    positions, size = model.positions.weight.detach(), _size(model, rows, precision, linear is not plain)
    return Decoder(model.config, table, positions, tuple(layers), norm, head, rows, size, precision)


def _size(model: Transformer, rows: slice, precision: Precision, copied: bool) -> int:
    """Bytes of the packed weights; ``copied``: the head is a copy of the table's rows."""
    inside = sum(x.numel() for x in model.blocks.parameters())
    tokens = model.tokens.weight
    head = tokens[rows].numel() if copied else 0
    tables, itemsize = tokens.nbytes + model.positions.weight.nbytes, tokens.itemsize
    if precision == "int8":
        return tables + inside + head
    layer_itemsize = HALF_DTYPES[precision].itemsize if precision in HALF_DTYPES else itemsize
    return tables + inside * layer_itemsize + head * itemsize


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of some sequences, read in one forward.

    rows: the rows of the cache; start: number of preceding tokens in each row; queries: number of tokens in
    each row; views: the attention mask for each layer, one view for all queries or one per query.
    """

    rows: slice
    start: int
    queries: int
    views: Sequence[Sequence[View]]


def segment(
    decoder: Decoder,
    cache: KVCache,
    visibility: Visibility,
    queries: int,
    exact: bool = False,
    rows: slice = slice(None),
    start: int | None = None,
) -> Segment:
    """A segment of ``queries`` new tokens in rows of a cache (default: all rows), after its contents.

    exact: attention is computed for each query separately, so that its result does not depend on the other
    queries, bit for bit.
    """
    start = cache.length if start is None else start
    lengths = [(1, start + i + 1) for i in range(queries)] if exact else [(queries, start + queries)]

    def views(layer: int) -> list[View]:
        return [visibility.view(*length, decoder.device, layer).of_rows(rows) for length in lengths]

    layers = len(decoder.layers)
    each = [views(layer) for layer in range(layers)] if visibility.varies_by_layer else [views(0)] * layers
    return Segment(rows, start, queries, each)


def prefill(
    decoder: Decoder,
    ids: Tensor,
    positions: Tensor,
    cache: KVCache,
    visibility: Visibility | None = None,
    exact: bool = False,
) -> Tensor:
    """Read tokens into the cache.

    Args:
        ids: (b, q) int64, the tokens that the cache does not hold yet.
        positions: (b, q) int64.
        visibility: over all tokens, cached and new; causal by default.
        exact: as in :func:`segment`.

    Returns:
        (b, h), the hidden state of the last token of each row, after the last LayerNorm.
    """
    x = _read(decoder, ids, positions, cache, visibility, exact)[:, -1]
    return x if decoder.norm is None else normalise(x, decoder.norm)


def hidden_states(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, visibility: Visibility | None = None
) -> Tensor:
    """Like :func:`prefill`, but returns the hidden states of all new tokens (b, q, h)."""
    x = _read(decoder, ids, positions, cache, visibility)
    return x if decoder.norm is None else normalise(x, decoder.norm)


def _read(
    decoder: Decoder,
    ids: Tensor,
    positions: Tensor,
    cache: KVCache,
    visibility: Visibility | None,
    exact: bool = False,
) -> Tensor:
    """Hidden states (b, q, h) before the last LayerNorm; the cache grows by q."""
    batch, queries = ids.shape
    part = segment(decoder, cache, visibility or Causal(), queries, exact)
    attention = partial(_attend, decoder.config, cache, [part])
    x = _forward(decoder, ids.reshape(-1), positions.reshape(-1), attention)
    cache.advance(queries)
    return x.view(batch, queries, -1)


def read_segments(
    decoder: Decoder,
    ids: Tensor,
    positions: Tensor,
    cache: KVCache,
    segments: Sequence[Segment],
    outputs: Tensor,
) -> Tensor:
    """Read segments of several lengths in one forward; the length of the cache does not change.

    Args:
        ids, positions: (t,) int64, segment after segment, in each row after row.
        outputs: (m,) int64, the tokens whose hidden states are returned.

    Returns:
        (m, h), after the last LayerNorm.
    """
    x = _forward(decoder, ids, positions, partial(_attend, decoder.config, cache, segments))
    x = x.index_select(0, outputs)
    return x if decoder.norm is None else normalise(x, decoder.norm)


def read_window(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, places: Tensor, bias: Tensor
) -> Tensor:
    """Read q tokens of every row, each row at its own offset in the cache, whose length does not change.

    Shapes do not depend on the offsets and nothing synchronizes with the device, so that the call can be
    captured in a CUDA graph.

    Args:
        ids, positions: (b, q) int64.
        places: (b, q) int64, indices of the tokens in the cache.
        bias: (b, 1, q, k) of the cache's dtype, added to the scores of the cache's first k tokens.

    Returns:
        (b * q, h), after the last LayerNorm.
    """
    attention = partial(_attend_window, decoder.config, cache, places, bias)
    x = _forward(decoder, ids.reshape(-1), positions.reshape(-1), attention)
    return x if decoder.norm is None else normalise(x, decoder.norm)


def _forward(decoder: Decoder, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Hidden states (t, h) before the last LayerNorm; ids and positions: (t,)."""
    x = F.embedding(ids, decoder.tokens).add_(F.embedding(positions, decoder.positions))
    for index, layer in enumerate(decoder.layers):
        x = _layer(layer, index, x, attention)
    return x


def decode_step(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, visibility: Visibility | None = None
) -> Tensor:
    """Read one token per row, ids and positions (b,); returns the logits (b, rows) of the next token."""
    return decoder.head(prefill(decoder, ids[:, None], positions[:, None], cache, visibility))


def _layer(layer: Layer, index: int, x: Tensor, attention: Attention) -> Tensor:
    """One layer over x (t, h)."""
    y = x if layer.attention.norm_in is None else normalise(x, layer.attention.norm_in)
    y = layer.out(attention(layer.qkv(y), index))
    x = _join(x, y, layer.attention)
    y = x if layer.mlp.norm_in is None else normalise(x, layer.mlp.norm_in)
    return _join(x, layer.down(layer.up(y)), layer.mlp)


def _attend(
    config: TransformerConfig, cache: KVCache, segments: Sequence[Segment], qkv: Tensor, index: int
) -> Tensor:
    """Attention from (t, 3h) to (t, h), segment by segment."""
    outputs, first = list[Tensor](), 0
    for part in segments:
        rows = len(range(*part.rows.indices(cache.batch)))
        packed = qkv[first : first + rows * part.queries]
        first += len(packed)
        parts = packed.view(rows, part.queries, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
        key, value = cache.update(index, parts[1:], part.rows, part.start)  # (rows, heads, k, head_dim) each
        attended = attend_in_parts(parts[0], key, value, part.views[index])
        outputs.append(attended.transpose(1, 2).reshape(-1, config.hidden))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_window(
    config: TransformerConfig, cache: KVCache, places: Tensor, bias: Tensor, qkv: Tensor, index: int
) -> Tensor:
    """Attention from (t, 3h) to (t, h), each row at its offset in the cache."""
    rows, queries = places.shape
    parts = qkv.view(rows, queries, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
    entries, new = cache.entries[:, index], parts[1:]  # (2, rows, heads, n, head_dim)
    entries.scatter_(3, places[None, :, None, :, None].expand_as(new), new)
    key, value = entries[..., : bias.shape[-1], :]
    attended = F.scaled_dot_product_attention(parts[0], key, value, bias)
    return attended.transpose(1, 2).reshape(-1, config.hidden)


def _join(x: Tensor, y: Tensor, branch: Branch) -> Tensor:
    """Add a branch's output to the residual stream."""
    if branch.norm_out is None:
        return x + y
    return normalise(x + y, branch.norm_out) if branch.after_sum else x + normalise(y, branch.norm_out)


def normalise(x: Tensor, norm: LayerNorm) -> Tensor:
    """``norm(x)`` in fewer operations, in the norm's dtype."""
    x = x.to(norm.weight.dtype)
    if norm.relax == "token":
        x = x / x.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)
    elif norm.relax == "tensor":
        x = relax(x, norm.relax)
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
