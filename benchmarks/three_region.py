"""Three-region sparse attention against dense attention: time and memory, as ratios in one run.

    python benchmarks/three_region.py

4,096 tokens, 8 heads of 64, float32: 768 pivots (64 of text, the others image tokens drawn anew) and a
window of 6 blocks of 128, as released. *vanilla* writes out all scores and their softmax, as the released
dense attention does; *causal* is PyTorch's fused kernel. All are measured in turns in one run, so that what
else the machine does hits all alike; a ratio is the median of the ratios of each turn.

Time is what a user waits; with ``--processor`` it is the time that the process was given, which with
``--threads 1`` hardly depends on what else runs. Peak memory: each form once in a fresh process, by the
growth of the kernel's high-water mark of resident memory (VmHWM, reset before the pass) over what was
resident when the inputs were there; it does not depend on PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import json
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

from cogview.transformer.attention import Causal, ThreeRegion, sample_pivots
from cogview.transformer.attention.pattern import attend_fused, attend_written

HEADS, WIDTH, TEXT = 8, 64, 64
FORMS = ("vanilla", "causal", "three_region")
PASSES = ("forward", "forward_backward")
Clock = Callable[[], float]


def inputs(length: int) -> list[Tensor]:
    """Query, key, value and the gradient of the output."""
    torch.manual_seed(0)
    return [torch.randn(1, HEADS, length, WIDTH) for _ in range(4)]


def make_pattern(given: argparse.Namespace) -> ThreeRegion:
    is_text = (torch.arange(given.length) < TEXT)[None]
    pivots = sample_pivots(is_text, ~is_text, given.pivots)[0]
    return ThreeRegion(given.window, given.times, pivots)


def make_form(name: str, given: argparse.Namespace) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function of query, key and value. The sparse one draws pivots and lays out tiles in every call."""
    length = given.length
    if name == "vanilla":
        dense = Causal().dense_view(length, length)
        return lambda q, k, v: attend_written(q, k, v, dense)
    if name == "causal":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return lambda q, k, v: attend_fused(q, k, v, make_pattern(given).view(length, length))


def run(form: Callable[..., Tensor], which: str, tensors: list[Tensor]) -> None:
    *leaves, grad = tensors
    if which == "forward":
        with torch.no_grad():
            form(*leaves)
        return
    form(*(x.detach().requires_grad_() for x in leaves)).backward(grad)  # type: ignore[no-untyped-call]


def seconds(action: Callable[[], None], clock: Clock) -> float:
    start = clock()
    action()
    return clock() - start


SLOW = 3  # of so many turns, vanilla takes part in one


def measure(given: argparse.Namespace, clock: Clock, repeats: int) -> dict[str, Any]:
    """Milliseconds of every form and pass, and how many times as fast as the others the sparse one is."""
    forms, tensors = {name: make_form(name, given) for name in FORMS}, inputs(given.length)
    times: dict[str, dict[str, list[float]]] = {which: {name: [] for name in FORMS} for which in PASSES}
    for turn in range(repeats + 1):
        for which in PASSES:
            for name, form in forms.items():
                if name == "vanilla" and turn % SLOW != 1:
                    continue
                taken = seconds(lambda f=form, w=which: run(f, w, tensors), clock)  # type: ignore[misc]
                if turn:  # the first is slower, and is left out
                    times[which][name].append(taken)
    report: dict[str, Any] = {}
    for which, by_form in times.items():
        fast = by_form["three_region"]
        report[which] = {f"{name}_ms": 1e3 * statistics.median(found) for name, found in by_form.items()}
        for name in FORMS[:2]:
            same_turns = fast[::SLOW] if name == "vanilla" else fast
            ratios = [a / b for a, b in zip(by_form[name], same_turns, strict=True)]
            report[which][f"{name}_over_three_region"] = statistics.median(ratios)
    return report


# ---------------------------------------------------------------------------------------------- memory


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def peak(name: str, which: str, given: argparse.Namespace) -> int:
    """Bytes by which a pass raises the process's resident memory at its highest."""
    small = argparse.Namespace(**{**vars(given), "length": 1024})
    run(make_form(name, small), which, inputs(1024))  # code and thread pools are loaded
    form, tensors = make_form(name, given), inputs(given.length)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
    before = status("VmRSS")
    run(form, which, tensors)
    return status("VmHWM") - before


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Peaks in megabytes, each in a process of its own, and what the sparse form saves."""
    report: dict[str, Any] = {}
    for which in PASSES:
        peaks = {name: int(_child(name, which, given)) for name in FORMS}
        report[which] = {f"{name}_mb": size / 1e6 for name, size in peaks.items()}
        report[which] |= {
            f"saved_against_{name}": 1 - peaks["three_region"] / peaks[name] for name in FORMS[:2]
        }
    return report


def _child(name: str, which: str, given: argparse.Namespace) -> str:
    options = [f"--{key}={getattr(given, key)}" for key in ("length", "window", "times", "pivots")]
    command = [sys.executable, __file__, *options, "--peak", name, which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ---------------------------------------------------------------------------------------------- report


def machine(threads: int) -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg()[0],
    }


def show(report: dict[str, Any]) -> None:
    for which in PASSES:
        found = report[which]
        times = ", ".join(f"{name} {found[f'{name}_ms']:.0f} ms" for name in FORMS)
        ratios = ", ".join(f"{found[f'{name}_over_three_region']:.2f} x {name}" for name in FORMS[:2])
        print(f"{report['clock']:9} {which:16} {times}; as fast as {ratios}")
    for which in PASSES:
        found = report["peak_memory"][which]
        sizes = ", ".join(f"{name} {found[f'{name}_mb']:.0f} MB" for name in FORMS)
        print(f"memory    {which:16} {sizes}; saved {found['saved_against_vanilla']:.0%} of vanilla's")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--pivots", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--processor", action="store_true", help="processor time; for a busy machine")
    parser.add_argument("--peak", nargs=2, metavar=("FORM", "PASS"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "three_region.json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.peak:
        torch.set_num_threads(1)
        name, which = given.peak
        print(peak(name, which, given))
        return
    sizes = {"length": given.length, "heads": HEADS, "width": WIDTH, "window": given.window}
    report: dict[str, Any] = {**sizes, "times": given.times, "pivots": given.pivots, "text": TEXT}
    report["peak_memory"] = memory(given)
    torch.set_num_threads(given.threads)
    report["clock"] = "processor" if given.processor else "wall"
    clock = time.process_time if given.processor else time.perf_counter
    report |= measure(given, clock, given.repeats)
    report["machine"] = machine(given.threads)
    show(report)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
