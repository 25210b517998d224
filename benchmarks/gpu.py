"""Everything that only a GPU shows, in one unattended run: tests, kernels, decoding, numerics.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --rehearse   # all of it at a tiny size on the CPU, in a minute

Each part is written as soon as it is measured, with its command's seconds; what is in the file already is not
measured again, and what fails is noted and the next part begins. Attention is measured at 64 x 64 tokens,
forward and backward, with dropout 0 and 0.1: the papers' patterns against scores written down and against the
fused kernel with a mask. Decoding has random weights; its floor is the time to read all weights once a step
at the bandwidth that copying reaches on the same device.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cogview
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import Batch, OnStep, SequenceRequest, Strategy
from cogview.generation.static_windows import Window as StaticWindow
from cogview.generation.static_windows import windowed
from cogview.sequences import SequenceFormat
from cogview.transformer.attention import CrossResolution, Local, ThreeRegion, Visibility, Window
from cogview.transformer.attention.pattern import attend_fused, attend_written
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
WIDTH, TEXT = 64, 128
MODELS = {"300M": (24, 1024, 16), "1B": (36, 1536, 24), "4B": (48, 2560, 40)}  # layers, hidden, heads
DEVICE_TESTS = ("tests/training/test_on_a_device.py", "tests/evaluation/judges/test_on_a_device.py")
Found = dict[str, Any]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of several runs after a first."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


# ------------------------------------------------------------------------------------------------- kernels


def patterns(side: int, device: torch.device) -> Iterator[tuple[str, Visibility, int]]:
    """The papers' patterns and their lengths."""
    window = Window(9, 9, causal=True) if side >= 9 else Window(3, 3, causal=True)
    text, small = (TEXT, side // 2) if side >= 9 else (8, side // 2)
    yield "local", Local((side, side), window), side * side
    across = CrossResolution(text, (small, small), (side, side), Window(3, 3), Window(3, 3))
    yield "cross_resolution", across, across.length
    length = side * side
    pivots = torch.rand(1, length, device=device).topk(length // 6, -1).indices.sort(-1).values
    yield "three_region", ThreeRegion(max(length // 32, 2), 6, pivots), length


def attention(side: int, heads: int, device: torch.device, rounds: int) -> Found:
    """Milliseconds and megabytes of each pattern, in half precision on a GPU."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    found: Found = {}
    for name, pattern, length in patterns(side, device):
        dense, fast = pattern.dense_view(length, length, device), pattern.view(length, length, device)
        ways: dict[str, Callable[..., Tensor]] = {
            "written": lambda q, k, v, p, dense=dense: attend_written(q, k, v, dense, p),
            "fused_mask": lambda q, k, v, p, dense=dense: attend_fused(q, k, v, dense, p),
            "fast": lambda q, k, v, p, fast=fast: attend_fused(q, k, v, fast, p),
        }
        shape = 1, heads, length, WIDTH
        for chance in (0.0, 0.1):
            for way, form in ways.items():
                triple = [
                    torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
                ]
                found[f"{name} dropout {chance} {way}"] = _one(form, triple, chance, device, rounds)
    return found


def _one(
    form: Callable[..., Tensor], triple: list[Tensor], chance: float, device: torch.device, rounds: int
) -> Found:
    """Of one way to compute: forward alone, and with the backward pass; what it takes beyond its inputs."""

    def both() -> None:
        out = form(*triple, chance)
        torch.autograd.grad(out, triple, torch.ones_like(out))

    def forward() -> None:
        with torch.no_grad():
            form(*triple, chance)

    try:
        times = {
            "forward_ms": 1e3 * seconds(forward, device, rounds),
            "both_ms": 1e3 * seconds(both, device, rounds),
        }
    except (RuntimeError, NotImplementedError) as error:
        return {"failed": " ".join(str(error).split())[:300]}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        times["megabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return {key: round(value, 3) for key, value in times.items()}


# ------------------------------------------------------------------------------------------------ decoding


def without_graphs(batch: Batch, on_step: OnStep) -> None:
    """The static step token by token, each operation launched by the host."""
    window = StaticWindow(batch, 0, 1)
    for known in range(1, len(batch.tokens)):
        window.step(window.keys(known))
        on_step(known + 1, batch.tokens)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that copying reads and writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, 5)


def _generate(engine: Engine, requests: list[SequenceRequest], params: SamplingParams) -> None:
    for _ in engine.generate(requests, params, len(requests)):
        pass


def decoding(
    shapes: tuple[int, int, int],
    grid: int,
    codes: int,
    batches: list[int],
    windows: list[int],
    device: torch.device,
) -> Found:
    """Tokens a second of a model with random weights, and the share of the bandwidth its weights take."""
    layers, hidden, heads = shapes
    form = SequenceFormat(
        vocabulary=Vocabulary(image_codes=codes, text_pieces=1000), text_slots=16, grid=(grid, grid)
    )
    sizes = {"vocab_size": form.vocabulary.padded_size, "max_positions": form.max_positions}
    config = TransformerConfig(layers=layers, hidden=hidden, heads=heads, **sizes)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with torch.device(device):
        model = Transformer(config).to(dtype).eval()
    engine = Engine(pack(model, slice(0, codes), "fp32" if device.type == "cpu" else "bf16"))
    read = bandwidth(device, 1 << (22 if device.type == "cpu" else 30))
    prompt, params = form.image_prompt([5, 6, 7]), SamplingParams(top_k=min(200, codes - 1))
    found: Found = {"bytes": engine.decoder.size, "copy_bytes_per_second": round(read)}
    ways: dict[str, Strategy] = {"one token, no graph": without_graphs}
    ways |= {f"window {size}": partial(windowed, size=size) for size in windows}
    for batch in batches:
        requests = [SequenceRequest(prompt, 7, index) for index in range(batch)]
        for name, way in ways.items():
            engine.strategy = way
            taken = seconds(partial(_generate, engine, requests, params), device, 1)
            rate = batch * grid * grid / taken
            share = rate / batch * engine.decoder.size / (read / 2)
            found[f"batch {batch}, {name}"] = {
                "tokens_per_second": round(rate, 1),
                "of_floor": round(share, 4),
            }
    return found


# ---------------------------------------------------------------------------------------------- other parts


def command(*words: str) -> Found:
    """A command's exit status and the end of what it said."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit": done.returncode, "said": (done.stdout + done.stderr)[-4000:].splitlines()[-20:]}


def parts(rehearse: bool, device: torch.device) -> dict[str, Callable[[], Found]]:
    """What is measured, in the order of its worth."""
    tests = () if rehearse else DEVICE_TESTS  # they take most of a minute on a CPU
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda", "tests/test_cuda.py", *tests]
    side, heads, rounds = (8, 2, 1) if rehearse else (64, 8, 5)
    figure = "examples/stability/run.py"
    sizes = ["--layers", "2", "--steps", "3"] if rehearse else ["--hidden", "1024", "--heads", "16"]
    found: dict[str, Callable[[], Found]] = {
        "smoke": lambda: command(*test),
        "kernels": lambda: attention(side, heads, device, rounds),
    }
    models = {"tiny": (2, 32, 2)} if rehearse else MODELS
    for name, shapes in models.items():
        given = (4, 64, [1, 2], [1, 4]) if rehearse else (24, 8192, [1, 16], [1, 4, 16, 64])
        found[f"decoding {name}"] = partial(decoding, shapes, *given, device)
    found["numerics"] = lambda: command(
        figure, "--device", str(device), "--out", "runs/gpu-stability", *sizes
    )
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="default: results/gpu.json, of a rehearsal in runs/")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--only", action="append", metavar="PART", help="parts whose name begins so")
    given = parser.parse_args(words)
    output = given.output or ROOT / ("runs/gpu.json" if given.rehearse else "benchmarks/results/gpu.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if given.rehearse else "cuda")
    name = platform.machine() if given.rehearse else torch.cuda.get_device_name()
    found: Found = json.loads(output.read_text()) if output.exists() else {}
    found |= {"device": name, "torch": torch.__version__, "cogview": cogview.__version__}
    for part, run in parts(given.rehearse, device).items():
        wanted = not given.only or any(part.startswith(one) for one in given.only)
        if not wanted or "failed" not in found.get(part, {"failed": ""}):
            continue
        began = time.perf_counter()
        try:
            measured = run()
        except Exception:  # the next part may work
            measured = {"failed": traceback.format_exc().splitlines()[-6:]}
        found[part] = measured | {"seconds": round(time.perf_counter() - began, 1)}
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(part, json.dumps(found[part])[:2000], flush=True)


if __name__ == "__main__":
    main()
