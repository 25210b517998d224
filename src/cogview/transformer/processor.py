"""The CPU's instruction sets, and their measured speed-up."""

from __future__ import annotations

import functools
import os
import platform
import time
from typing import Any

import torch

from cogview.transformer.uncompiled import constant

WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")  # oneDNN's names
SIDE = 512  # of the timed matrices
REPEATS = 5
WORTHWHILE = 1.2  # minimum speed-up to use bfloat16


@functools.cache
def has_bf16_instructions() -> bool:
    """Whether the CPU has instructions for bfloat16 products; otherwise they are emulated."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported() or _limit() in WITHOUT_BF16:
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return True


@functools.cache
def bf16_gain() -> float:
    """The speed-up of a bfloat16 matrix product over float32 on this CPU; 0 without instructions.

    Measured once per process, in some hundredths of a second: the minimum CPU time of a few products of each,
    alternating, so that other load has little effect.
    """
    if not has_bf16_instructions():
        return 0.0
    pair = [torch.full((SIDE, SIDE), 0.01, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + REPEATS):
        for matrix, times in zip(pair, seconds, strict=True):
            start = time.process_time()
            matrix @ matrix
            times.append(time.process_time() - start)
    return min(seconds[0][1:]) / min(seconds[1][1:])


@constant
def multiplies_bf16() -> bool:
    """Whether bfloat16 products were measured to be faster than float32 ones on this CPU."""
    return bf16_gain() >= WORTHWHILE


@functools.cache
def adds_bytes_exactly() -> bool:
    """Whether oneDNN accumulates products of bytes in 32 bits (VNNI), determined by a test.

    Without VNNI it adds pairs of products in 16 bits, which overflows if both factors use all their bits.
    """
    weight, x = torch.full((16, 64), 127, dtype=torch.int8), torch.full((1, 64), 255, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weight, list(x.shape))
    zeros = torch.zeros(16, dtype=torch.int32)
    to_float: tuple[Any, ...] = (torch.float32, "none", [], "")
    sums = torch.ops.onednn.qlinear_pointwise.default(
        x, 1.0, 0, packed, torch.ones(16), zeros, None, 1.0, 0, *to_float
    )
    return bool((sums == 64 * 127 * 255).all())


def _limit() -> str:
    """The instruction set that the environment limits oneDNN to."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
