"""Local 2-D attention against global attention at 4,096 tokens: time and peak memory, forward and backward.

    python benchmarks/local_attention.py

64 x 64 tokens, windows of 9 x 9, 64 numbers a head. *vanilla* is global attention as it is written (scores,
softmax, values), *fused* the same in one kernel, *fused_mask* that kernel with the window as a dense mask,
which is the function that *local* computes. All take turns in one run, so that what else the machine does
hits all of them; ratios are of medians. Peak memory is what a process of its own needs beyond its inputs:
the kernel's high-water mark (Linux) on a CPU, the allocator's on a GPU. On a GPU *local* is FlexAttention.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.transformer.attention import Local, Window

Form = Callable[[Tensor, Tensor, Tensor], Tensor]
WIDTH = 64
FORMS = ("vanilla", "fused", "fused_mask", "local")


def vanilla(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every score written down."""
    return (query / math.sqrt(WIDTH) @ key.mT).softmax(-1) @ value


def forms(side: int, window: int, device: torch.device) -> dict[str, Form]:
    """What is compared, by name."""
    pattern, tokens = Local((side, side), Window(window, window)), side * side
    mask = pattern.dense_view(tokens, tokens, device).allowed
    kernel = pattern.view(tokens, tokens, device).kernel
    assert kernel is not None
    return {
        "vanilla": vanilla,
        "fused": F.scaled_dot_product_attention,
        "fused_mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask),
        "local": lambda q, k, v: kernel(q, k, v, 0.0),
    }


def inputs(side: int, heads: int, device: torch.device, train: bool) -> list[Tensor]:
    """Query, key, value (1, heads, side * side, WIDTH)."""
    torch.manual_seed(0)
    shape = 1, heads, side * side, WIDTH
    return [torch.randn(shape, device=device, requires_grad=train) for _ in range(3)]


def run(form: Form, triple: list[Tensor]) -> None:
    """Forward, and backward where the inputs ask for gradients."""
    query, key, value = triple
    out = form(query, key, value)
    if query.requires_grad:
        torch.autograd.grad(out, triple, torch.ones_like(out))
    if out.is_cuda:
        torch.cuda.synchronize()


def times(arguments: argparse.Namespace, train: bool) -> dict[str, list[float]]:
    """Milliseconds of every form in every round."""
    device = torch.device(arguments.device)
    triple = inputs(arguments.side, arguments.heads, device, train)
    compared = forms(arguments.side, arguments.window, device)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    found: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(arguments.rounds + 1):
        for name in FORMS:
            start = clock()
            run(compared[name], triple)
            if turn:  # the first is to warm up
                found[name].append(1e3 * (clock() - start))
    return found


def high_water() -> int:
    """The most bytes this process has held since its mark was cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def peak(arguments: argparse.Namespace) -> int:
    """Bytes beyond inputs, mask and tiles' tables of one form, in this process."""
    device = torch.device(arguments.device)
    triple = inputs(arguments.side, arguments.heads, device, arguments.train)
    form = forms(arguments.side, arguments.window, device)[arguments.peak]
    small = forms(16, arguments.window, device)[arguments.peak]
    run(small, inputs(16, 1, device, arguments.train))  # what libraries set up at their first use
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(form, triple)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    run(form, triple)
    return high_water() - before


def peaks(arguments: argparse.Namespace, train: bool) -> dict[str, float]:
    """Megabytes of every form, each measured in a process of its own."""
    found = {}
    for name in FORMS:
        options = [
            f"--{key}={getattr(arguments, key)}" for key in ("side", "window", "heads", "device", "threads")
        ]
        command = [sys.executable, __file__, *options, f"--peak={name}", *(["--train"] if train else [])]
        known = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=known)
        found[name] = int(done.stdout) / 1e6
    return found


def compare(arguments: argparse.Namespace, train: bool) -> dict[str, Any]:
    """Medians, peaks, and the ratios that are promised."""
    found = times(arguments, train)
    medians = {name: statistics.median(row) for name, row in found.items()}
    held = peaks(arguments, train)
    return {
        "milliseconds": {name: round(value, 1) for name, value in medians.items()},
        "best": {name: round(min(row), 1) for name, row in found.items()},
        "megabytes": {name: round(value, 1) for name, value in held.items()},
        "times_faster_than": {n: round(medians[n] / medians["local"], 1) for n in FORMS[:-1]},
        "part_of_memory_of": {n: round(held["local"] / max(held[n], 1e-3), 4) for n in FORMS[:-1]},
    }


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=64, help="rows and columns of tokens")
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, one thread"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "local_attention.json"
    )
    parser.add_argument("--peak", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak(arguments))
        return
    settings = {
        key: getattr(arguments, key)
        for key in ("side", "window", "heads", "rounds", "threads", "device", "clock")
    }
    result = {
        "tokens": arguments.side**2,
        "head_dim": WIDTH,
        **settings,
        "forward": compare(arguments, train=False),
        "forward_and_backward": compare(arguments, train=True),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
