"""The machines that a training run is planned for; nothing here imports PyTorch."""

from __future__ import annotations

from typing import Literal

from cogview.config import Config, option

Sharding = Literal["none", "zero2", "zero3"]
PEAKS = "A100: 312, H100 and H200: 989, V100: 125 (fp16), RTX 4090: 165"


class Machine(Config):
    """The computers; ``flops`` at the training precision, ``utilisation`` that of matrix products."""

    gpus: int = option(8, "How many there are in all.", ge=1)
    per_node: int = option(8, "How many in one machine.", ge=1)
    memory: float = option(80.0, "GiB of each.", gt=0)
    flops: float = option(312.0, f"Peak of each in TFLOP/s ({PEAKS}).", gt=0)
    utilisation: float = option(0.45, "Share of the peak reached in practice.", gt=0, le=1)
    local: float = option(200.0, "GB/s a GPU sends within a machine.", gt=0)
    network: float = option(25.0, "GB/s a GPU sends between machines.", gt=0)
