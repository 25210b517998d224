"""Exports a transformer as ONNX graphs: one that reads tokens, and heads that compute logits.

One graph serves prefill, decoding steps and windows of Jacobi decoding: it reads any number of new tokens of
several sequences after those in a cache. The cache is a read-only input of fixed size; the caller stores the
new keys and values. The attention mask, with biases, is an input, so that sequences can be padded anywhere. A
model with two stacks (direct super-resolution) only reads complete sequences.
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
        heads: name of each head to the ids (of the vocabulary) for which it computes logits.
        capacity: number of tokens that a cache must hold.
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
    """Logits (m, ids) of hidden states (m, h), from rows of the token embeddings."""
    graph = Graph("head", weights)
    hidden = graph.input("hidden", np.float32, ("states", model.config.hidden))
    logits = graph.linear(hidden, graph.matrix_rows(TABLE, ids.start, ids.stop))
    graph.output(logits, "logits", np.float32, ("states", len(ids)))
    return graph


def _reader(model: Transformer, weights: WeightFile) -> Graph:
    """Hidden states after the last LayerNorm, and the new keys and values of every layer."""
    config, graph = model.config, Graph("transformer", weights)
    ids = graph.input("ids", np.int32, ("rows", "tokens"))
    position_ids = graph.input("positions", np.int32, ("rows", "tokens"))
    mask = graph.input("mask", np.float32, ("rows", "tokens", "keys"))
    tokens = graph.matrix(TABLE, _array(model.tokens.weight))
    positions = graph.matrix("positions.weight", _positions(model))
    x = graph.op("Add", graph.rows_of(tokens, ids), graph.rows_of(positions, position_ids))
    bias = graph.op("Unsqueeze", mask, graph.constant([1]))  # (rows, 1, tokens, keys)
    attention = _Attention(model, graph, bias)
    for layer, block in enumerate(model.blocks):
        module = _Module(graph, f"blocks.{layer}", dict(block.named_parameters()))
        x = _block(module, block, layer, attention, x)
    if isinstance(model.norm, LayerNorm):
        x = _normalise(_Module(graph, "norm", dict(model.norm.named_parameters())), "", model.norm, x)
    graph.output(x, "hidden", np.float32, ("rows", "tokens", config.hidden))
    return graph


def _positions(model: Transformer) -> Array:
    """Position embeddings; those of super-resolution's large image come last."""
    tables = [model.positions, *([] if model.extra_positions is None else [model.extra_positions])]
    return np.concatenate([_array(table.weight) for table in tables])


def _block(module: _Module, block: nn.Module, layer: int, attention: _Attention, x: str) -> str:
    """One layer."""
    assert isinstance(block, Block)
    x = _branch(
        module, block.attention_branch, "attention_branch", x, lambda y: attention.layer(module, layer, y)
    )
    return _branch(module, block.mlp_branch, "mlp_branch", x, lambda y: _feed_forward(module, y))


class _Module:
    """Adds the weights of a module to a graph, by their names in the module."""

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
    """Attention of new tokens to those in the cache and to each other."""

    def __init__(self, model: Transformer, graph: Graph, mask: str) -> None:
        self.config, self.graph, self.mask = model.config, graph, mask
        width = self.config.head_dim
        self.scale = graph.constant(1 / np.sqrt(width), np.float32)
        self.by_head = graph.constant([0, 0, 3, self.config.heads, width])
        self.merged = graph.constant([0, 0, self.config.hidden])
        cached = graph.op("Shape", "values.0", start=2, end=3)
        new = graph.op("Shape", "ids", start=1, end=2)
        self.parts = graph.op("Concat", cached, new, axis=0)
        self.stacks = None
        if self.config.decoder_from is not None:
            first = graph.constant([self.config.decoder_from])
            self.stacks = graph.op("Concat", first, graph.op("Sub", new, first), axis=0)

    def layer(self, module: _Module, layer: int, x: str) -> str:
        """Attention of one layer, from (rows, tokens, h) to (rows, tokens, h)."""
        graph, config = self.graph, self.config
        shape = ("rows", config.heads)
        keys = graph.input(f"keys.{layer}", np.float32, (*shape, config.head_dim, "capacity"))
        values = graph.input(f"values.{layer}", np.float32, (*shape, "capacity", config.head_dim))
        qkv = graph.op("Reshape", self._projected(module, "qkv", x), self.by_head)
        split = graph.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])  # (3, rows, heads, tokens, head_dim)
        q, k, v = (graph.op("Gather", split, graph.constant(i), axis=0) for i in range(3))
        k = graph.op("Transpose", k, perm=[0, 1, 3, 2])
        graph.output(k, f"new_keys.{layer}", np.float32, (*shape, config.head_dim, "tokens"))
        graph.output(v, f"new_values.{layer}", np.float32, (*shape, "tokens", config.head_dim))
        q = graph.op("Mul", q, self.scale)
        scores = graph.op("Concat", graph.op("MatMul", q, keys), graph.op("MatMul", q, k), axis=-1)
        weights = graph.op("Softmax", graph.op("Add", scores, self.mask), axis=-1)
        cached, new = graph.ops("Split", 2, weights, self.parts, axis=-1)
        y = graph.op("Add", graph.op("MatMul", cached, values), graph.op("MatMul", new, v))
        y = graph.op("Reshape", graph.op("Transpose", y, perm=[0, 2, 1, 3]), self.merged)
        return self._projected(module, "out", y)

    def _projected(self, module: _Module, name: str, x: str) -> str:
        """A linear layer of attention; with two stacks, the large image's tokens have their module layer."""
        if self.stacks is None:
            return module.linear(f"attention.{name}", x)
        first, second = self.graph.ops("Split", 2, x, self.stacks, axis=1)
        parts = module.linear(f"attention.{name}", first), module.linear(f"attention.decoder_{name}", second)
        return self.graph.op("Concat", *parts, axis=1)


def _feed_forward(module: _Module, x: str) -> str:
    return module.linear("mlp.down", module.graph.op("Gelu", module.linear("mlp.up", x), approximate="tanh"))


def _branch(module: _Module, branch: Branch, name: str, x: str, function: Callable[[str], str]) -> str:
    """The sum of ``x`` and a branch, with its LayerNorms."""
    y = x if branch.norm_in is None else _normalise(module, f"{name}.norm_in.", branch.norm_in, x)
    y = function(y)
    if branch.norm_out is None:
        return module.graph.op("Add", x, y)
    end = f"{name}.norm_out."
    if branch.after_sum:
        return _normalise(module, end, branch.norm_out, module.graph.op("Add", x, y))
    return module.graph.op("Add", x, _normalise(module, end, branch.norm_out, y))


def _normalise(module: _Module, name: str, norm: LayerNorm, x: str) -> str:
    """LayerNorm, PB-relaxed or plain."""
    graph = module.graph
    if norm.relax == "token":
        largest = graph.op("ReduceMax", graph.op("Abs", x), graph.constant([-1]), keepdims=1)
        least = graph.constant(np.finfo(np.float32).tiny, np.float32)
        x = graph.op("Div", x, graph.op("Max", largest, least))
    elif norm.relax == "tensor":
        largest = graph.op("ReduceMax", graph.op("Abs", x), keepdims=1)
        x = graph.op("Div", x, graph.op("Div", largest, graph.constant(RELEASED_RANGE, np.float32)))
    weight, bias = module.vector(f"{name}weight"), module.vector(f"{name}bias")
    return graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.epsilon)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().numpy()
    return array
