"""Builds ONNX graphs operator by operator, with their weights in external files.

Graphs use only standard operators of one opset, so that ONNX Runtime executes them on any processor and in a
browser. Several graphs can refer to one file of weights: those that a decoder and its head share are stored
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper

from cogview.onnx.manifest import Weights

OPSET = 20  # the first with Gelu
IR_VERSION = 10
ALIGNMENT = 64  # bytes, alignment of a tensor in its file
LEVELS, MIDDLE = 127, 128  # of 8-bit values: levels on each side of 0, and the value that stands for 0

Array = NDArray[Any]
Shape = Sequence[int | str]


@dataclass(frozen=True)
class Matrix:
    """A matrix in a file: its name, the name of its scales (int8), and its number of dimensions."""

    name: str
    precision: Weights
    scale: str | None
    dimensions: int


class WeightFile:
    """A file of tensors, each stored once.

    Args:
        path: of the file to write.
        precision: of matrices; vectors (biases, LayerNorms) are always float32.
    """

    def __init__(self, path: Path, precision: Weights) -> None:
        self.path, self.precision = path, precision
        self._file = path.open("xb")
        self._entries: dict[str, TensorProto] = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def tensor(self, name: str, array: Array) -> TensorProto:
        """Store a tensor, unless its name is known already; returns its entry."""
        if name not in self._entries:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            offset, content = self._file.tell(), np.ascontiguousarray(array).tobytes()
            self._file.write(content)
            self._entries[name] = self._entry(name, array.dtype, array.shape, offset, len(content))
        return self._entries[name]

    def rows(self, name: str, stored: str, first: int, end: int) -> TensorProto:
        """The entry of the rows from ``first`` to ``end`` of a stored tensor."""
        entry = self._entries[stored]
        location = {one.key: one.value for one in entry.external_data}
        row = int(location["length"]) // entry.dims[0]
        shape = (end - first, *entry.dims[1:])
        offset = int(location["offset"]) + first * row
        dtype = helper.tensor_dtype_to_np_dtype(entry.data_type)
        return self._entry(name, dtype, shape, offset, row * (end - first))

    def _entry(self, name: str, dtype: Any, shape: Sequence[int], offset: int, length: int) -> TensorProto:
        entry = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", self.path.name), ("offset", offset), ("length", length)):
            entry.external_data.add(key=key, value=str(value))
        return entry


class Graph:
    """A graph under construction. Values are identified by names, as in ONNX."""

    def __init__(self, name: str, weights: WeightFile) -> None:
        self.name, self.weights = name, weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    # ---------------------------------------------------------------------------------------------- values

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Add an input; dimensions given by name may have any size."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, dtype: Any, shape: Shape) -> None:
        """Add an output: a value under a name."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"out/{name}"))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: ArrayLike, dtype: Any = np.int64) -> str:
        """A small constant, stored in the graph."""
        array = np.asarray(value, dtype=dtype)
        name = f"c{len(self.initializers)}"
        self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; returns its first result."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator; returns its first ``count`` results."""
        number = len(self.nodes)
        results = [f"v{number}" if count == 1 else f"v{number}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, results, name=f"{kind}/{number}", **attributes))
        return results

    # --------------------------------------------------------------------------------------------- weights

    def vector(self, name: str, array: Array) -> str:
        """A weight in float32."""
        self.initializers[name] = self.weights.tensor(name, array.astype(np.float32))
        return name

    def matrix(self, name: str, array: Array, precision: Weights | None = None) -> Matrix:
        """A weight (outputs, ...), stored in ``precision`` (default: the file's)."""
        precision, array, scale = precision or self.weights.precision, array.astype(np.float32), None
        if precision == "int8":
            array, scales = quantize(array)
            scale = f"{name}.scale"
            self.initializers[scale] = self.weights.tensor(scale, scales)
        elif precision == "fp16":
            array = array.astype(np.float16)
        self.initializers[name] = self.weights.tensor(name, array)
        return Matrix(name, precision, scale, array.ndim)

    def matrix_rows(self, stored: str, first: int, end: int) -> Matrix:
        """Some rows of a matrix (outputs, inputs) that another graph has stored in the same file."""
        names = [stored, *([f"{stored}.scale"] if self.weights.precision == "int8" else [])]
        parts = [f"{name}.{first}-{end}" for name in names]
        for name, part in zip(names, parts, strict=True):
            self.initializers[part] = self.weights.rows(part, name, first, end)
        return Matrix(parts[0], self.weights.precision, parts[1] if len(parts) > 1 else None, 2)

    def dense(self, matrix: Matrix) -> str:
        """A matrix in float32, which ONNX Runtime computes once when it loads the graph."""
        shape = [-1, *[1] * (matrix.dimensions - 1)]
        scale = None if matrix.scale is None else self.op("Reshape", matrix.scale, self.constant(shape))
        return self._float(matrix, matrix.name, scale)

    def rows_of(self, matrix: Matrix, numbers: str) -> str:
        """Gather rows of a matrix (outputs, inputs) by index (...): (..., inputs) float32."""
        scale = None
        if matrix.scale is not None:
            scale = self.op("Gather", matrix.scale, numbers, axis=0)
            scale = self.op("Unsqueeze", scale, self.constant([-1]))
        return self._float(matrix, self.op("Gather", matrix.name, numbers, axis=0), scale)

    def _float(self, matrix: Matrix, value: str, scale: str | None) -> str:
        """Convert stored values to float32."""
        if matrix.precision == "fp32":
            return value
        value = self.op("Cast", value, to=TensorProto.FLOAT)
        if scale is None:
            return value
        return self.op("Mul", self.op("Sub", value, self.constant(MIDDLE, np.float32)), scale)

    def linear(self, x: str, matrix: Matrix, bias: str | None = None) -> str:
        """x (..., inputs) times the transpose of a matrix (outputs, inputs), plus a bias (outputs,).

        int8: inputs are quantized as well, with one scale per row, so that rows stay independent, and
        multiplied as integers. Values are unsigned, because products of signed ones overflow on processors
        without VNNI.
        """
        if matrix.scale is None:
            product = self.op("MatMul", x, self.op("Transpose", self.dense(matrix), perm=[1, 0]))
        else:
            least, step = self.constant(1e-30, np.float32), self.constant(1 / LEVELS, np.float32)
            middle = self.constant(MIDDLE, np.uint8)
            largest = self.op("ReduceMax", self.op("Abs", x), self.constant([-1]), keepdims=1)
            largest = self.op("Max", largest, least)
            levels = self.op("QuantizeLinear", self.op("Div", x, largest), step, middle)
            transposed = self.op("Transpose", matrix.name, perm=[1, 0])
            sums = self.op(
                "Cast", self.op("MatMulInteger", levels, transposed, middle, middle), to=TensorProto.FLOAT
            )
            factor = self.op("Mul", matrix.scale, step)
            product = self.op("Mul", self.op("Mul", sums, largest), factor)
        return product if bias is None else self.op("Add", product, bias)

    # ------------------------------------------------------------------------------------------------ file

    def save(self, path: Path) -> None:
        """Write the graph."""
        from cogview import __version__

        graph = helper.make_graph(
            self.nodes, self.name, self.inputs, self.outputs, list(self.initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cogview",
            producer_version=__version__,
        )
        path.write_bytes(model.SerializeToString())


def quantize(array: Array) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize ``array`` (outputs, ...) to uint8 around ``MIDDLE``; returns also the scales (outputs,)."""
    largest = np.abs(array.reshape(len(array), -1)).max(1)
    scale = np.maximum(largest, np.finfo(np.float32).tiny) / LEVELS
    levels = np.round(array / scale.reshape(-1, *[1] * (array.ndim - 1))) + MIDDLE
    return levels.astype(np.uint8), scale.astype(np.float32)
