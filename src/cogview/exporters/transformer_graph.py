"""A transformer as ONNX graphs: one that reads tokens, and heads that give logits.

One graph serves prefill, decode step and windows of Jacobi decoding: it reads any number of new tokens of
some sequences after those that a cache holds. The cache is read-only to it and has one size; who calls it
stores the new keys and values. Who sees whom, and with what bias, is an input, so that sequences may be
filled up at any place. A model with two stacks (direct super-resolution) reads whole sequences only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from cogview.exporters.graph import Array, Graph, WeightFile
from cogview.onnx.manifest import Head, TransformerFiles, Weights
from cogview.transformer.block import RELEASED_RANGE, Block, Branch, LayerNorm
from cogview.transformer.model import Transformer

TABLE = "tokens.weight"


def write_transformer(
    model: Transformer, folder: Path, heads: dict[str, range], capacity: int, precision: Weights
) -> TransformerFiles:
    """Write a transformer's graphs into a new folder.

    Args:
        heads: name of each output matrix and the ids (of the vocabulary) that it gives logits of.
        capacity: tokens that a cache has to hold.
    """
    folder.mkdir(parents=True)
    weights = WeightFile(folder / "weights.bin", precision)
    _reader(model, weights).save(folder / "transformer.onnx")
    for name, ids in heads.items():
        _head(model, weights, ids).save(folder / f"head_{name}.onnx")
    weights.close()
    config = model.config
    return TransformerFiles(
        graph=f"{folder.name}/transformer.onnx",
        heads={
            name: Head(graph=f"{folder.name}/head_{name}.onnx", first=ids.start, end=ids.stop)
            for name, ids in heads.items()
        },
        weights=f"{folder.name}/weights.bin",
        layers=config.layers,
        attention_heads=config.heads,
        head_dim=config.head_dim,
        hidden=config.hidden,
        positions=config.max_positions + config.extra_positions,
        capacity=capacity,
    )


def _head(model: Transformer, weights: WeightFile, ids: range) -> Graph:
    """Logits (m, ids) of hidden states (m, h), by rows of the table of tokens."""
    graph = Graph("head", weights)
    hidden = graph.input("hidden", np.float32, ("states", model.config.hidden))
    logits = graph.linear(hidden, graph.matrix_rows(TABLE, ids.start, ids.stop))
    graph.output(logits, "logits", np.float32, ("states", len(ids)))
    return graph


def _reader(model: Transformer, weights: WeightFile) -> Graph:
    """Hidden states after the last LayerNorm, and the new keys and values of every layer."""
    config, graph = model.config, Graph("transformer", weights)
    ids = graph.input("ids", np.int32, ("rows", "tokens"))
    places = graph.input("positions", np.int32, ("rows", "tokens"))
    mask = graph.input("mask", np.float32, ("rows", "tokens", "keys"))
    tokens = graph.matrix(TABLE, _array(model.tokens.weight))
    positions = graph.matrix("positions.weight", _positions(model))
    x = graph.op("Add", graph.rows_of(tokens, ids), graph.rows_of(positions, places))
    added = graph.op("Unsqueeze", mask, graph.constant([1]))  # (rows, 1, tokens, keys)
    attention = _Attention(model, graph, added)
    for layer, block in enumerate(model.blocks):
        own = _Named(graph, f"blocks.{layer}", dict(block.named_parameters()))
        x = _block(own, block, layer, attention, x)
    if isinstance(model.norm, LayerNorm):
        x = _normalise(_Named(graph, "norm", dict(model.norm.named_parameters())), "", model.norm, x)
    graph.output(x, "hidden", np.float32, ("rows", "tokens", config.hidden))
    return graph


def _positions(model: Transformer) -> Array:
    """Position embeddings, those of super-resolution's large image last."""
    tables = [model.positions, *([] if model.extra_positions is None else [model.extra_positions])]
    return np.concatenate([_array(table.weight) for table in tables])


def _block(own: _Named, block: nn.Module, layer: int, attention: _Attention, x: str) -> str:
    """One layer."""
    assert isinstance(block, Block)
    x = _branch(own, block.attention_branch, "attention_branch", x, lambda y: attention.layer(own, layer, y))
    return _branch(own, block.mlp_branch, "mlp_branch", x, lambda y: _feed_forward(own, y))


class _Named:
    """The weights of a module, by their names in it."""

    def __init__(self, graph: Graph, prefix: str, parameters: dict[str, Tensor]) -> None:
        self.graph, self.prefix, self.parameters = graph, prefix, parameters

    def vector(self, name: str) -> str:
        """A bias, or a LayerNorm's weight."""
        return self.graph.vector(f"{self.prefix}.{name}", _array(self.parameters[name]))

    def linear(self, name: str, x: str) -> str:
        """A linear layer with its bias."""
        matrix = self.graph.matrix(f"{self.prefix}.{name}.weight", _array(self.parameters[f"{name}.weight"]))
        return self.graph.linear(x, matrix, self.vector(f"{name}.bias"))


class _Attention:
    """Attention from new tokens to those in the cache and to each other."""

    def __init__(self, model: Transformer, graph: Graph, mask: str) -> None:
        self.config, self.graph, self.mask = model.config, graph, mask
        width = self.config.head_dim
        self.scale = graph.constant(1 / np.sqrt(width), np.float32)
        self.by_head = graph.constant([0, 0, 3, self.config.heads, width])
        self.whole = graph.constant([0, 0, self.config.hidden])
        held = graph.op("Shape", "values.0", start=2, end=3)
        new = graph.op("Shape", "ids", start=1, end=2)
        self.parts = graph.op("Concat", held, new, axis=0)
        self.stacks = None
        if self.config.decoder_from is not None:
            first = graph.constant([self.config.decoder_from])
            self.stacks = graph.op("Concat", first, graph.op("Sub", new, first), axis=0)

    def layer(self, own: _Named, layer: int, x: str) -> str:
        """Attention of one layer, (rows, tokens, h) to the same."""
        graph, config = self.graph, self.config
        shape = ("rows", config.heads)
        keys = graph.input(f"keys.{layer}", np.float32, (*shape, config.head_dim, "capacity"))
        values = graph.input(f"values.{layer}", np.float32, (*shape, "capacity", config.head_dim))
        qkv = graph.op("Reshape", self._projected(own, "qkv", x), self.by_head)
        turned = graph.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])  # (3, rows, heads, tokens, head_dim)
        q, k, v = (graph.op("Gather", turned, graph.constant(i), axis=0) for i in range(3))
        k = graph.op("Transpose", k, perm=[0, 1, 3, 2])
        graph.output(k, f"new_keys.{layer}", np.float32, (*shape, config.head_dim, "tokens"))
        graph.output(v, f"new_values.{layer}", np.float32, (*shape, "tokens", config.head_dim))
        q = graph.op("Mul", q, self.scale)
        scores = graph.op("Concat", graph.op("MatMul", q, keys), graph.op("MatMul", q, k), axis=-1)
        weights = graph.op("Softmax", graph.op("Add", scores, self.mask), axis=-1)
        held, new = graph.ops("Split", 2, weights, self.parts, axis=-1)
        y = graph.op("Add", graph.op("MatMul", held, values), graph.op("MatMul", new, v))
        y = graph.op("Reshape", graph.op("Transpose", y, perm=[0, 2, 1, 3]), self.whole)
        return self._projected(own, "out", y)

    def _projected(self, own: _Named, name: str, x: str) -> str:
        """A linear layer of attention; with two stacks, the large image's tokens have one of their own."""
        if self.stacks is None:
            return own.linear(f"attention.{name}", x)
        first, second = self.graph.ops("Split", 2, x, self.stacks, axis=1)
        parts = own.linear(f"attention.{name}", first), own.linear(f"attention.decoder_{name}", second)
        return self.graph.op("Concat", *parts, axis=1)


def _feed_forward(own: _Named, x: str) -> str:
    return own.linear("mlp.down", own.graph.op("Gelu", own.linear("mlp.up", x), approximate="tanh"))


def _branch(own: _Named, branch: Branch, name: str, x: str, function: Callable[[str], str]) -> str:
    """The sum of ``x`` and a branch, with its LayerNorms."""
    y = x if branch.norm_in is None else _normalise(own, f"{name}.norm_in.", branch.norm_in, x)
    y = function(y)
    if branch.norm_out is None:
        return own.graph.op("Add", x, y)
    end = f"{name}.norm_out."
    if branch.after_sum:
        return _normalise(own, end, branch.norm_out, own.graph.op("Add", x, y))
    return own.graph.op("Add", x, _normalise(own, end, branch.norm_out, y))


def _normalise(own: _Named, name: str, norm: LayerNorm, x: str) -> str:
    """LayerNorm, PB-relaxed or plain."""
    graph = own.graph
    if norm.relax == "token":
        largest = graph.op("ReduceMax", graph.op("Abs", x), graph.constant([-1]), keepdims=1)
        least = graph.constant(np.finfo(np.float32).tiny, np.float32)
        x = graph.op("Div", x, graph.op("Max", largest, least))
    elif norm.relax == "tensor":
        largest = graph.op("ReduceMax", graph.op("Abs", x), keepdims=1)
        x = graph.op("Div", x, graph.op("Div", largest, graph.constant(RELEASED_RANGE, np.float32)))
    weight, bias = own.vector(f"{name}weight"), own.vector(f"{name}bias")
    return graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.epsilon)


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().cpu().numpy()
    return found
