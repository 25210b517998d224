"""How long a decode step takes, against the time that memory needs to hand over the bytes it reads.

    python benchmarks/decode_step.py

The model is 12 layers of width 512 with 8 heads and CogView's vocabulary of 58,240; a picture has 1,024
tokens. Bandwidth and steps are measured in turns in one run, so that what else the machine does hits both.
Two ratios are given: the best step against the best bandwidth, and the median one against the median one.
Bytes of a step: every weight of the layers and the 8,192 rows of the output matrix once, and the filled part
of the cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cogview.generation.decoder import Decoder, decode_step, pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.strategies import sequential
from cogview.sequences import Prompt, SequenceFormat
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import Precision, SamplingParams

FORM = SequenceFormat.cogview()
CODES = slice(0, FORM.vocabulary.image_codes)
PROMPT = 32
TOKENS = FORM.codes
CONFIG = TransformerConfig(
    layers=12, hidden=512, heads=8, vocab_size=FORM.vocabulary.padded_size, max_positions=FORM.max_positions
)
PLACES = (0, TOKENS // 2, TOKENS - 2)
PICTURES = (("fp32", 1), ("int8", 1), ("fp32", 8), ("int8", 8))


@dataclass
class Measurement:
    """One kind of step at one place of the picture; times in milliseconds."""

    way: str
    batch: int
    token: int
    megabytes: float
    best: float
    median: float
    floor: float
    ratio: float
    median_ratio: float


class Stream:
    """Reads a large array from memory, in two ways; the faster one is the bandwidth."""

    def __init__(self) -> None:
        self.matrix, self.vector = torch.randn(49152, 1024), torch.randn(1024)
        self.rates: list[float] = []

    def measure(self) -> None:
        """One reading of 201 MB each way, in bytes a second."""
        ways = (self.matrix.sum, lambda: torch.mv(self.matrix, self.vector))
        self.rates.append(self.matrix.nbytes / min(seconds(way) for way in ways))


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def cached(batch: int, token: int, dtype: torch.dtype = torch.float32) -> KVCache:
    """A cache that holds a prompt and ``token`` tokens of a picture."""
    cache = KVCache.allocate(CONFIG, batch, PROMPT + TOKENS, dtype)
    cache.entries.normal_()
    cache.advance(PROMPT + token)
    return cache


def bytes_read(batch: int, token: int, precision: str) -> int:
    """Of layers, output matrix and cache."""
    layer = (4 + 2 * CONFIG.ffn_multiple) * CONFIG.hidden**2
    head = FORM.vocabulary.image_codes * CONFIG.hidden
    size, last = {"int8": (1, 1), "bf16": (2, 4)}.get(precision, (4, 4))  # bytes a weight
    cache = KVCache.size_in_bytes(CONFIG, batch, PROMPT + token + 1)
    return CONFIG.layers * layer * size + head * last + cache // (2 if precision == "bf16" else 1)


def one_step(decoder: Decoder, cache: KVCache) -> Callable[[], Any]:
    ids = torch.zeros(cache.batch, dtype=torch.int64)
    length, positions = cache.length, torch.full((cache.batch,), cache.length)

    def action() -> None:
        decode_step(decoder, ids, positions, cache)
        cache.reset(length)

    return action


def one_eager_step(model: Transformer, cache: KVCache) -> Callable[[], Any]:
    """What the packed step is compared with: the model's own forward pass, with the same cache and head."""
    ids = torch.zeros(cache.batch, 1, dtype=torch.int64)
    length, positions = cache.length, torch.full((cache.batch, 1), cache.length)

    def action() -> None:
        model.logits(model(ids, positions, cache=cache)[:, -1], CODES)
        cache.reset(length)

    return action


def measure(
    actions: dict[tuple[str, int, int], Callable[[], Any]], repeats: int
) -> tuple[list[float], dict[tuple[str, int, int], list[float]]]:
    """Bandwidths in bytes a second, and the times of every action, all in turns."""
    stream = Stream()
    times: dict[tuple[str, int, int], list[float]] = {key: [] for key in actions}
    for action in actions.values():  # the first call of a shape is slower
        action()
    for _ in range(repeats):
        stream.measure()
        for key, action in actions.items():
            times[key] += [seconds(action) for _ in range(3)]
    return stream.rates, times


def steps(
    model: Transformer, decoders: dict[str, Decoder], repeats: int
) -> tuple[list[float], list[Measurement]]:
    actions: dict[tuple[str, int, int], Callable[[], Any]] = {}
    for batch in (1, 8):
        for token in PLACES:
            cache = cached(batch, token)
            actions["eager", batch, token] = one_eager_step(model, cache)
            for precision, decoder in decoders.items():
                own = cache if decoder.dtype == torch.float32 else cached(batch, token, decoder.dtype)
                actions[precision, batch, token] = one_step(decoder, own)
    rates, times = measure(actions, repeats)
    found = []
    for (way, batch, token), taken in times.items():
        size = bytes_read(batch, token, way)
        best, median = min(taken), statistics.median(taken)
        floor, usual = size / max(rates), size / statistics.median(rates)
        times_ms = (best * 1e3, median * 1e3, floor * 1e3)
        found.append(Measurement(way, batch, token, size / 1e6, *times_ms, best / floor, median / usual))
    return rates, found


def pictures(decoder: Decoder, batch: int) -> dict[str, Any]:
    """Whole pictures with sampling, as ``cogview generate`` draws them."""
    read = FORM.prompt(range(PROMPT - 3))
    prompt = Prompt(read.ids, read.positions, FORM.code_positions(PROMPT - 3))
    marks: list[float] = []
    jobs = [SequenceRequest(prompt, 7, index) for index in range(batch)]
    for _ in Engine(decoder, strategy=sequential).generate(
        jobs, SamplingParams(top_k=200), batch, lambda done, total: marks.append(time.perf_counter())
    ):
        pass
    gaps = [1e3 * (b - a) for a, b in itertools.pairwise(marks)]
    eighth = len(gaps) // 8
    parts = [statistics.median(gaps[i * eighth : (i + 1) * eighth]) for i in range(8)]
    spent = marks[-1] - marks[0]
    return {
        "batch": batch,
        "seconds": spent,
        "tokens_per_second": batch * len(gaps) / spent,
        "ms_by_eighth": parts,
    }


def machine(threads: int) -> dict[str, Any]:
    names = (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return {
        "processor": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg()[0],
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--pictures", action="store_true", help="draw whole pictures too (half a minute)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decode_step.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    decoders: dict[str, Decoder] = {name: pack(model, CODES, name) for name in precisions}
    with torch.inference_mode():
        rates, found = steps(model, decoders, given.repeats)
    best, median = max(rates) / 1e9, statistics.median(rates) / 1e9
    print(f"bandwidth {best:.1f} GB/s (median {median:.1f}), {given.threads} threads")
    for m in found:
        speed = f"{m.best:6.2f} ms (median {m.median:6.2f}), {1e3 * m.batch / m.best:4.0f} tokens/s"
        floor = f"{m.megabytes:4.0f} MB, floor {m.floor:5.2f} ms"
        ratio = f"ratio {m.ratio:.2f} (medians {m.median_ratio:.2f})"
        print(f"{m.way:5} batch {m.batch} token {m.token:4}: {speed}, {floor}, {ratio}")
    report: dict[str, Any] = {
        "machine": machine(given.threads),
        "bandwidth_gb_s": {"best": best, "median": median},
        "steps": [asdict(m) for m in found],
    }
    if given.pictures:
        report["pictures"] = [{"way": way, **pictures(decoders[way], batch)} for way, batch in PICTURES]
        for drawn in report["pictures"]:
            print("{way:5} batch {batch}: {seconds:.1f} s, {tokens_per_second:.0f} tokens/s".format(**drawn))
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
