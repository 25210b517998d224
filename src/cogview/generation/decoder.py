"""The transformer for inference: the same function as ``Transformer.forward`` with a cache, laid out for
speed.

A step at batch 1 is a few hundred small operations around one pass over the weights, so the layers are plain
functions over packed weights, rows are kept two-dimensional, and the output matrix is cut to
the rows that can come (while an image is drawn, its codes: 14 % of CogView's vocabulary).

Linear layers are functions (rows, inputs) -> (rows, outputs), packed once for the processor, in four forms:

- ``plain``      the weights as they are, on any device and in any dtype
- ``prepacked``  oneDNN's own layout, on a CPU: twice as fast as ``plain`` from two rows on, and the result of
                 a row does not depend on how many there are
- ``half``       one of the first two in bfloat16 or float16: inputs are rounded, results stay so
- ``int8``       weights of a byte, one scale an output; inputs rounded to a byte, one scale a *row*, so that
                 rows stay independent (PyTorch's dynamic quantisation has one scale for the whole batch)
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

ROWS = 16  # rows that weights are packed for; oneDNN's layout for fewer is slower, even for those
INT8 = 127


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Where a model whose layers are kept so can be called: float32 inputs are rounded for its products."""
    if precision not in HALF_DTYPES:
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF_DTYPES[precision])


def plain(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """x @ weight.T + bias, then tanh-GELU if ``gelu``; weight (outputs, inputs), bias (outputs,)."""
    if gelu:
        return lambda x: F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return lambda x: F.linear(x, weight, bias)


def prepacked(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """The same with the weights in oneDNN's layout, which takes as much memory again.

    One row is computed twice: for one alone oneDNN adds up in another order.
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
    """The same with weights, inputs and result in ``dtype``."""
    form = prepacked if packed else plain
    linear = form(weight.to(dtype), None if bias is None else bias.to(dtype), gelu)
    return lambda x: linear(x.to(dtype))


def int8(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """The same in integers: exact sums of products of bytes, scaled back by row and by output."""
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
    """Steps on each side of 0 for inputs; without VNNI pairs of products must fit into 16 bits: 7 bits do."""
    return INT8 if adds_bytes_exactly() else INT8 // 2


def choose_linear(precision: Precision, device: torch.device, dtype: torch.dtype) -> Callable[..., Linear]:
    """The form for a precision, device and the weights' dtype; CogViewError where there is none."""
    cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if precision == "int8":
        if not cpu:
            raise CogViewError("int8 needs an x86 CPU with oneDNN; use the precision fp32")
        return int8
    if precision in HALF_DTYPES:
        packed = cpu and precision == "bf16" and multiplies_bf16()
        return partial(half, dtype=HALF_DTYPES[precision], packed=packed)
    return prepacked if cpu and dtype == torch.float32 else plain


@dataclass(frozen=True)
class Layer:
    """One layer: the LayerNorms around its two branches, and four linear layers."""

    attention: Branch
    mlp: Branch
    qkv: Linear
    out: Linear
    up: Linear  # with GELU
    down: Linear


@dataclass(frozen=True)
class Decoder:
    """A transformer's weights, packed. tokens (vocab_size, h), positions (max_positions, h); ``head`` gives
    the logits of the vocabulary's ``rows``; size: bytes of all of it; precision: of the layers"""

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
        """Where the weights are."""
        return self.tokens.device

    @property
    def rounds(self) -> bool:
        """Whether layers round what they read (on a CPU), which makes of a last bit a larger difference."""
        return self.precision != "fp32" and self.device.type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the cache."""
        return HALF_DTYPES.get(self.precision, self.tokens.dtype)


def pack(model: Transformer, rows: slice | None = None, precision: Precision = "fp32") -> Decoder:
    """The weights of ``model`` as a decoder that gives logits of the vocabulary's ``rows`` (default: all).

    On a CPU the linear layers are copies, so ``model`` can be dropped; elsewhere they share its weights.
    Attention is always computed with scores in float32, where equation 4 changes nothing. In half precision
    the layers' products are; what layers add up, LayerNorms and logits are float32.
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
    """Bytes of the packed weights; ``copied``: the head has rows of its own, not those of the table."""
    inside = sum(x.numel() for x in model.blocks.parameters())
    head = model.tokens.weight[rows].numel() if copied else 0
    tables, own = model.tokens.weight.nbytes + model.positions.weight.nbytes, model.tokens.weight.itemsize
    if precision == "int8":
        return tables + inside + head
    return (
        tables + inside * (HALF_DTYPES[precision].itemsize if precision in HALF_DTYPES else own) + head * own
    )


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of some sequences, read in one forward.

    rows: the sequences, of the cache; start: the tokens before these, in each; queries: the tokens of each;
    views: for each layer whom they see, one view of all queries, or one of each.
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
    """``queries`` tokens for sequences of a cache, by default of all, after what it holds.

    exact: attention is computed for each query by itself, so that its result is the same bit for bit whatever
    is read with it.
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
    """Read tokens into the cache; the hidden state of the last one of each row, after the last LayerNorm.

    Args:
        ids: (b, q) int64, the tokens that the cache does not hold yet.
        positions: (b, q) int64.
        visibility: over all tokens, held and new; causal by default.
        exact: as in :func:`segment`.

    Returns:
        (b, h)
    """
    x = _read(decoder, ids, positions, cache, visibility, exact)[:, -1]
    return x if decoder.norm is None else normalise(x, decoder.norm)


def hidden_states(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, visibility: Visibility | None = None
) -> Tensor:
    """:func:`prefill`, but the hidden states of all new tokens (b, q, h)."""
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
    wanted: Tensor,
) -> Tensor:
    """Read segments of several lengths in one forward; what the cache counts as filled stays.

    Args:
        ids, positions: (t,) int64, segment after segment, in each row after row.
        wanted: (m,) int64, the tokens whose hidden states are returned, after the last LayerNorm: (m, h).
    """
    x = _forward(decoder, ids, positions, partial(_attend, decoder.config, cache, segments))
    x = x.index_select(0, wanted)
    return x if decoder.norm is None else normalise(x, decoder.norm)


def read_window(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, places: Tensor, bias: Tensor
) -> Tensor:
    """Read as many tokens of every row, each row at a place of its own; the cache's length stays.

    All shapes are the same wherever the rows stand, and nothing waits for the device, so that a CUDA graph
    can hold the call.

    Args:
        ids, positions: (b, q) int64.
        places: (b, q) int64, where in the cache the tokens stand.
        bias: (b, 1, q, k) of the cache's dtype, added to the scores of the cache's first k tokens.

    Returns:
        (b * q, h), after the last LayerNorm.
    """
    attention = partial(_attend_window, decoder.config, cache, places, bias)
    x = _forward(decoder, ids.reshape(-1), positions.reshape(-1), attention)
    return x if decoder.norm is None else normalise(x, decoder.norm)


def _forward(decoder: Decoder, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Hidden states (t, h) of tokens ids and positions (t,), before the last LayerNorm."""
    x = F.embedding(ids, decoder.tokens).add_(F.embedding(positions, decoder.positions))
    for index, layer in enumerate(decoder.layers):
        x = _layer(layer, index, x, attention)
    return x


def decode_step(
    decoder: Decoder, ids: Tensor, positions: Tensor, cache: KVCache, visibility: Visibility | None = None
) -> Tensor:
    """Read one token a row, ids and positions (b,); the logits (b, rows) of what follows it."""
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
    found, first = list[Tensor](), 0
    for part in segments:
        rows = len(range(*part.rows.indices(cache.batch)))
        own = qkv[first : first + rows * part.queries]
        first += len(own)
        parts = own.view(rows, part.queries, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
        held = cache.update(index, parts[1:], part.rows, part.start)  # (2, rows, heads, k, head_dim)
        attended = attend_in_parts(parts[0], held[0], held[1], part.views[index])
        found.append(attended.transpose(1, 2).reshape(-1, config.hidden))
    return found[0] if len(found) == 1 else torch.cat(found)


def _attend_window(
    config: TransformerConfig, cache: KVCache, places: Tensor, bias: Tensor, qkv: Tensor, index: int
) -> Tensor:
    """Attention from (t, 3h) to (t, h), every row at its places."""
    rows, queries = places.shape
    parts = qkv.view(rows, queries, 3, config.heads, config.head_dim).permute(2, 0, 3, 1, 4)
    held, new = cache.entries[:, index], parts[1:]  # (2, rows, heads, n, head_dim)
    held.scatter_(3, places[None, :, None, :, None].expand_as(new), new)
    key, value = held[..., : bias.shape[-1], :]
    attended = F.scaled_dot_product_attention(parts[0], key, value, bias)
    return attended.transpose(1, 2).reshape(-1, config.hidden)


def _join(x: Tensor, y: Tensor, branch: Branch) -> Tensor:
    """The residual stream with a branch's output added."""
    if branch.norm_out is None:
        return x + y
    return normalise(x + y, branch.norm_out) if branch.after_sum else x + normalise(y, branch.norm_out)


def normalise(x: Tensor, norm: LayerNorm) -> Tensor:
    """``norm(x)`` in fewer operations, of the norm's dtype."""
    x = x.to(norm.weight.dtype)
    if norm.relax == "token":
        x = x / x.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)
    elif norm.relax == "tensor":
        x = relax(x, norm.relax)
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
