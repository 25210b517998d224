"""``--precision``, the same for every command that computes with a model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Precision = Literal["fp32", "bf16", "fp16", "int8"]  # of generation/linear.py, without reading PyTorch

PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="fp32; bf16, fp16: half the memory, for GPUs (bf16 for CPUs that know it, too); int8: for CPUs. "
        "All but fp32 are faster and slightly different."
    ),
]
