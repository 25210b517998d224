"""The runtime without PyTorch: a family exported by ``cogview export onnx``, executed by ONNX Runtime.

    >>> from cogview.onnx import load
    >>> model = load("pictogram-onnx")
    >>> model.generate("a red apple", seed=7)[0].save("apple.png")

Neither importing nor using it imports PyTorch. ``python -m cogview.onnx`` is its command line.
"""

from __future__ import annotations

from cogview.onnx.runtime import OnnxModel as OnnxModel
from cogview.onnx.runtime import OnnxModel as load

__all__ = ["OnnxModel", "load"]
