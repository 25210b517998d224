"""The hardware that a training run is planned for. This module does not import PyTorch."""

from __future__ import annotations

from typing import Literal

from cogview.config import Config, option

Sharding = Literal["none", "zero2", "zero3"]
PEAKS = "A100: 312, H100 and H200: 989, V100: 125 (fp16), RTX 4090: 165"


class Machine(Config):
    """The GPUs; ``flops`` in the training precision, ``utilisation`` of matrix products."""

    gpus: int = option(8, "Total number of GPUs.", ge=1)
    per_node: int = option(8, "Number of GPUs per machine.", ge=1)
    memory: float = option(80.0, "Memory of each GPU in GiB.", gt=0)
    flops: float = option(312.0, f"Peak of each GPU in TFLOP/s ({PEAKS}).", gt=0)
    utilisation: float = option(0.45, "Fraction of the peak reached in practice.", gt=0, le=1)
    local: float = option(200.0, "Bandwidth of a GPU within a machine in GB/s.", gt=0)
    network: float = option(25.0, "Bandwidth of a GPU between machines in GB/s.", gt=0)
