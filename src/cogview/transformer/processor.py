"""What the processor has instructions for."""

from __future__ import annotations

import functools
import platform

import torch


@functools.cache
def multiplies_bf16() -> bool:
    """Whether products in bfloat16 are faster than in float32 here; elsewhere they are emulated."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
