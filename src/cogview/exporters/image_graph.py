"""Exports an image tokenizer (CogView, section 2.2) as ONNX graphs: decoder, encoder, distances to the codes.

The layers of ``tokenizers.vqvae`` are translated one by one. Images and grids may have any size that the
tokenizer supports.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import nn

from cogview.exporters.graph import Array, Graph, Matrix, WeightFile
from cogview.generation.image_upscaling import ROUNDS
from cogview.generation.pixel_prior import DECODED, KNOWN, WIDTH, neighbour_distance
from cogview.onnx.manifest import ImageFiles, UpscalingFacts, Weights
from cogview.tokenizers.quantizers import FiniteScalarQuantizer
from cogview.tokenizers.vqvae import AttentionBlock, ImageTokenizer, ResidualBlock, Resize


def write_image_tokenizer(tokenizer: ImageTokenizer, folder: Path, precision: Weights) -> ImageFiles:
    """Write an image tokenizer's graphs into a new folder.

    Encoder and decoder have separate files, so that generation loads only the decoder. Convolutions are
    always computed in float32; the codebook is never stored in int8.
    """
    folder.mkdir(parents=True)
    files = {}
    for name, build in (("decoder", _decoder), ("encoder", _encoder), ("distances", _distances)):
        weights = WeightFile(folder / f"{name}.bin", precision)
        build(tokenizer, weights).save(folder / f"{name}.onnx")
        weights.close()
        files[name] = f"{folder.name}/{name}.onnx"
    config = tokenizer.config
    return ImageFiles(
        **files,
        image_size=config.image_size,
        grid=config.grid,
        factor=config.factor.as_integer_ratio(),
        multiple=config.multiple,
        codes=config.codes,
        upscaling=UpscalingFacts(
            known=KNOWN, painted=DECODED, width=WIDTH * neighbour_distance(tokenizer.quantizer), rounds=ROUNDS
        ),
    )


def _decoder(tokenizer: ImageTokenizer, weights: WeightFile) -> Graph:
    """Codes (n, h, w) to images (n, 3, H, W), nominally in [0, 1]."""
    graph = Graph("decoder", weights)
    codes = graph.input("codes", np.int32, ("images", "rows", "columns"))
    codebook = _codebook(graph, tokenizer)
    x = graph.op("Transpose", graph.rows_of(codebook, codes), perm=[0, 3, 1, 2])
    x = _sequence(graph, "decoder", tokenizer.decoder, x)
    x = graph.op("Add", graph.op("Mul", x, _channels(graph, tokenizer.std)), _channels(graph, tokenizer.mean))
    graph.output(x, "images", np.float32, ("images", 3, "height", "width"))
    return graph


def _encoder(tokenizer: ImageTokenizer, weights: WeightFile) -> Graph:
    """Images (n, 3, H, W) in [0, 1] to vectors (n, h, w, dim) and codes (n, h, w)."""
    graph, config = Graph("encoder", weights), tokenizer.config
    x = graph.input("images", np.float32, ("images", 3, "height", "width"))
    if config.reduce > 1:
        sides = [config.reduce, config.reduce]
        x = graph.op("AveragePool", x, kernel_shape=sides, strides=sides)
    x = graph.op("Div", graph.op("Sub", x, _channels(graph, tokenizer.mean)), _channels(graph, tokenizer.std))
    x = graph.op("Transpose", _sequence(graph, "encoder", tokenizer.encoder, x), perm=[0, 2, 3, 1])
    graph.output(x, "vectors", np.float32, ("images", "rows", "columns", config.code_dim))
    grid = ("images", "rows", "columns")
    graph.output(_nearest(graph, tokenizer, x), "codes", np.int32, grid)
    return graph


def _codebook(graph: Graph, tokenizer: ImageTokenizer) -> Matrix:
    """The codebook (codes, dim)."""
    precision: Weights = "fp32" if graph.weights.precision == "fp32" else "fp16"
    return graph.matrix("codebook", _array(tokenizer.quantizer.codebook), precision)


def _nearest(graph: Graph, tokenizer: ImageTokenizer, vectors: str) -> str:
    """Vectors (..., dim) to codes (...,) int32; ties go to the first index."""
    quantizer = tokenizer.quantizer
    if isinstance(quantizer, FiniteScalarQuantizer):
        return _levels(graph, quantizer, vectors)
    codebook = graph.dense(_codebook(graph, tokenizer))
    norms = graph.op("ReduceSum", graph.op("Mul", codebook, codebook), graph.constant([1]), keepdims=0)
    product = graph.op("MatMul", vectors, graph.op("Transpose", codebook, perm=[1, 0]))
    distances = graph.op("Sub", norms, graph.op("Mul", product, graph.constant(2, np.float32)))
    codes = graph.op("ArgMin", distances, axis=-1, keepdims=0)
    return graph.op("Cast", codes, to=TensorProto.INT32)


def _levels(graph: Graph, quantizer: FiniteScalarQuantizer, vectors: str) -> str:
    """Finite scalar quantization: vectors to codes; the level of the last coordinate changes fastest."""
    bounded = graph.op("Sigmoid", graph.op("Mul", vectors, graph.constant(1.6, np.float32)))
    steps = np.array([count - 1 for count in quantizer.levels], dtype=np.float32)
    strides = np.cumprod([1, *quantizer.levels[:0:-1]])[::-1].astype(np.float32)
    levels = graph.op("Round", graph.op("Mul", bounded, graph.constant(steps, np.float32)))
    products = graph.op("Mul", levels, graph.constant(strides, np.float32))
    codes = graph.op("ReduceSum", products, graph.constant([-1]), keepdims=0)
    return graph.op("Cast", codes, to=TensorProto.INT32)


def _distances(tokenizer: ImageTokenizer, weights: WeightFile) -> Graph:
    """Squared distances (m, codes) of vectors (m, dim) to every code, for upscaling."""
    graph, dim = Graph("distances", weights), tokenizer.config.code_dim
    vectors = graph.input("vectors", np.float32, ("vectors", dim))
    codebook = graph.dense(_codebook(graph, tokenizer))
    axis = graph.constant([1])
    norms = graph.op("ReduceSum", graph.op("Mul", codebook, codebook), axis, keepdims=0)
    squares = graph.op("ReduceSum", graph.op("Mul", vectors, vectors), axis, keepdims=1)
    product = graph.op("MatMul", vectors, graph.op("Transpose", codebook, perm=[1, 0]))
    doubled = graph.op("Mul", product, graph.constant(2, np.float32))
    distances = graph.op("Add", graph.op("Sub", squares, doubled), norms)
    graph.output(distances, "distances", np.float32, ("vectors", tokenizer.config.codes))
    return graph


# ---------------------------------------------------------------------------------------------- layers


def _sequence(graph: Graph, name: str, layers: nn.Sequential, x: str) -> str:
    for number, layer in enumerate(layers):
        x = LAYERS[type(layer)](graph, f"{name}.{number}", layer, x)
    return x


def _convolution(graph: Graph, name: str, layer: nn.Conv2d, x: str) -> str:
    weight = graph.dense(graph.matrix(f"{name}.weight", _array(layer.weight)))
    bias = graph.vector(f"{name}.bias", _array(layer.bias))
    return graph.op("Conv", x, weight, bias, **_windows(layer))


def _transposed(graph: Graph, name: str, layer: nn.ConvTranspose2d, x: str) -> str:
    weight = graph.dense(graph.matrix(f"{name}.weight", _array(layer.weight)))
    bias = graph.vector(f"{name}.bias", _array(layer.bias))
    return graph.op("ConvTranspose", x, weight, bias, **_windows(layer))


def _windows(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    padding = [int(side) for side in layer.padding]
    return {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "pads": [*padding, *padding],
    }


def _relu(graph: Graph, name: str, layer: nn.ReLU, x: str) -> str:
    return graph.op("Relu", x)


def _silu(graph: Graph, name: str, layer: nn.SiLU, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _group_norm(graph: Graph, name: str, layer: nn.GroupNorm, x: str) -> str:
    """GroupNorm as InstanceNormalization over groups, which all runtimes support."""
    groups = layer.num_groups
    grouped = graph.op("Reshape", x, graph.constant([0, groups, -1]))
    one, zero = graph.constant(np.ones(groups), np.float32), graph.constant(np.zeros(groups), np.float32)
    normal = graph.op("InstanceNormalization", grouped, one, zero, epsilon=layer.eps)
    normal = graph.op("Reshape", normal, graph.op("Shape", x))
    weight, bias = (
        graph.vector(f"{name}.{part}", _array(value).reshape(-1, 1, 1))
        for part, value in (("weight", layer.weight), ("bias", layer.bias))
    )
    return graph.op("Add", graph.op("Mul", normal, weight), bias)


def _residual(graph: Graph, name: str, layer: ResidualBlock, x: str) -> str:
    y = x
    for number, norm, convolution in ((1, layer.norm1, layer.conv1), (2, layer.norm2, layer.conv2)):
        y = _group_norm(graph, f"{name}.norm{number}", norm, y)
        y = graph.op("Mul", y, graph.op("Sigmoid", y))
        y = _convolution(graph, f"{name}.conv{number}", convolution, y)
    return graph.op("Add", x, y)


def _attention(graph: Graph, name: str, layer: AttentionBlock, x: str) -> str:
    width = layer.out.in_channels // layer.heads
    qkv = _convolution(graph, f"{name}.qkv", layer.qkv, _group_norm(graph, f"{name}.norm", layer.norm, x))
    qkv = graph.op("Reshape", qkv, graph.constant([0, 3, layer.heads, width, -1]))
    q, k, v = (graph.op("Gather", qkv, graph.constant(i), axis=1) for i in range(3))  # (n, heads, width, hw)
    q = graph.op("Mul", graph.op("Transpose", q, perm=[0, 1, 3, 2]), graph.constant(width**-0.5, np.float32))
    weights = graph.op("Softmax", graph.op("MatMul", q, k), axis=-1)
    y = graph.op("MatMul", v, graph.op("Transpose", weights, perm=[0, 1, 3, 2]))  # (n, heads, width, hw)
    y = graph.op("Reshape", y, graph.op("Shape", x))
    return graph.op("Add", x, _convolution(graph, f"{name}.out", layer.out, y))


def _fold(graph: Graph, name: str, layer: nn.PixelUnshuffle, x: str) -> str:
    """PixelUnshuffle, in PyTorch's channel order."""
    side = layer.downscale_factor
    height, width = (
        graph.op("Div", graph.op("Shape", x, start=i, end=i + 1), graph.constant([side])) for i in (2, 3)
    )
    channels = graph.op("Shape", x, start=0, end=2)
    factor = graph.constant([side])
    x = graph.op("Reshape", x, graph.op("Concat", channels, height, factor, width, factor, axis=0))
    x = graph.op("Transpose", x, perm=[0, 1, 3, 5, 2, 4])
    count = graph.op("Mul", graph.op("Shape", x, start=1, end=2), graph.constant([side * side]))
    first = graph.op("Shape", x, start=0, end=1)
    return graph.op("Reshape", x, graph.op("Concat", first, count, height, width, axis=0))


def _unfold(graph: Graph, name: str, layer: nn.PixelShuffle, x: str) -> str:
    return graph.op("DepthToSpace", x, blocksize=layer.upscale_factor, mode="CRD")


def _resize(graph: Graph, name: str, layer: Resize, x: str) -> str:
    sides = graph.op("Shape", x, start=2, end=4)
    sides = graph.op("Mul", sides, graph.constant([layer.ratio.numerator]))
    sides = graph.op("Div", sides, graph.constant([layer.ratio.denominator]))
    sizes = graph.op("Concat", graph.op("Shape", x, start=0, end=2), sides, axis=0)
    return graph.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")


LAYERS: dict[type[nn.Module], Callable[[Graph, str, Any, str], str]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.ReLU: _relu,
    nn.SiLU: _silu,
    nn.GroupNorm: _group_norm,
    nn.PixelUnshuffle: _fold,
    nn.PixelShuffle: _unfold,
    ResidualBlock: _residual,
    AttentionBlock: _attention,
    Resize: _resize,
}


def _channels(graph: Graph, values: Any) -> str:
    """Three values, one per channel, as (1, 3, 1, 1)."""
    return graph.constant(_array(values).reshape(1, 3, 1, 1), np.float32)


def _array(tensor: Any) -> Array:
    array: Array = tensor.detach().float().cpu().contiguous().numpy()
    return array
