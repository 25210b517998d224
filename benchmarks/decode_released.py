"""The engine against the released decoding loop, in turns in one run.

    python benchmarks/decode_released.py

The model is the one that the released loop's figures are for: 12 layers of width 512 with 8 heads,
vocabulary 58,240, a context of 33 tokens and a picture of 1,024, top-k 200, float32. *released* is the
released algorithm: it remembers hidden states, of every layer and token, and for each new token normalises
and projects all of them anew; the memory grows by concatenation; logits are those of the whole vocabulary.
*engine* is what ``cogview generate`` runs.

Both are timed at several places of the picture, sampling included. The time of a picture is the trapezoid
rule over the places; a ratio is the median over the turns. That both compute the same is checked first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cogview.generation import sampling
from cogview.generation.decoder import Decoder, decode_step, pack
from cogview.generation.sampling import Streams
from cogview.sequences import SequenceFormat
from cogview.transformer.attention import View
from cogview.transformer.attention.pattern import attend_released, lower_triangle
from cogview.transformer.block import Block
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams

FORM = SequenceFormat.cogview()
CODES = slice(0, FORM.vocabulary.image_codes)
CONTEXT, TOKENS, PLACES = 33, FORM.codes, 9
CONFIG = TransformerConfig(
    layers=12,
    hidden=512,
    heads=8,
    vocab_size=FORM.vocabulary.padded_size,
    max_positions=FORM.max_positions,
    norm_relax="tensor",
)
SETTINGS = SamplingParams(top_k=200)
RECORDED = {"released_ms_a_token": 97.0, "released_s_a_picture": 105.0, "threads": 2}


class ReleasedLoop:
    """The baseline, step by step. memory: the hidden states (b, t, h) before each layer."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def read(self, ids: Tensor, positions: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits (b, vocabulary) after the new tokens (b, q), and the memory with them."""
        x = self.model.embed(ids, positions)
        grown = []
        for number, block in enumerate(self.model.blocks):
            held = memory[number] if memory else x[:, :0]
            grown.append(torch.cat([held, x], 1))
            x = self._layer(cast(Block, block), x, held)
        return self.model.logits(self.model.norm(x))[:, -1], grown

    def _layer(self, block: Block, x: Tensor, held: Tensor) -> Tensor:
        def attend(new: Tensor) -> Tensor:
            norm = block.attention_branch.norm_in
            assert norm is not None
            whole = torch.cat([norm(held), new], 1) if held.shape[1] else new
            batch, keys, hidden = whole.shape
            parts = block.attention.qkv(whole).view(batch, keys, 3, CONFIG.heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = parts.unbind(0)
            queries = new.shape[1]
            view = View(lower_triangle(queries, keys)[None, None])
            out = attend_released(query[:, :, -queries:], key, value, view)
            attended: Tensor = block.attention.out(out.transpose(1, 2).reshape(batch, queries, hidden))
            return attended

        output: Tensor = block.mlp_branch(block.attention_branch(x, attend), block.mlp)
        return output

    def sample(self, logits: Tensor) -> Tensor:
        """A token (b, 1): what is no code is forbidden, then top-k and a draw over the whole vocabulary."""
        logits = logits / SETTINGS.temperature
        logits[:, CODES.stop :] = -torch.inf
        kept = sampling.keep_top_k(logits, SETTINGS.top_k)
        return torch.multinomial(kept.softmax(-1), 1)


def check(model: Transformer, decoder: Decoder) -> float:
    """The largest difference of the two's logits over some steps, relative to the largest logit."""
    loop, cache = ReleasedLoop(model), KVCache.allocate(CONFIG, 1, 16)
    ids, positions, memory = torch.arange(12)[None] * 7, torch.arange(12)[None], list[Tensor]()
    worst = 0.0
    for i in range(12):
        at = slice(i, i + 1)
        logits, memory = loop.read(ids[:, at], positions[:, at], memory)
        mine = decode_step(decoder, ids[:, i], positions[:, i], cache)
        worst = max(worst, ((mine - logits[:, CODES]).abs().max() / logits[:, CODES].abs().max()).item())
    assert worst < 1e-3, f"the baseline computes something else: {worst}"
    return worst


def released_step(model: Transformer, token: int) -> Callable[[], Any]:
    """A step of the baseline at batch 1 after ``token`` tokens of a picture."""
    loop, length = ReleasedLoop(model), CONTEXT + token
    memory = [torch.randn(1, length, CONFIG.hidden) for _ in range(CONFIG.layers)]
    ids, positions = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), length)
    return lambda: loop.sample(loop.read(ids, positions, memory)[0])


def engine_step(decoder: Decoder, token: int, batch: int) -> Callable[[], Any]:
    """A step of the engine, as ``Engine`` does it."""
    length = CONTEXT + token
    cache = KVCache.allocate(CONFIG, batch, CONTEXT + TOKENS)
    cache.entries.normal_()
    cache.advance(length)
    ids, positions = torch.zeros(batch, dtype=torch.int64), torch.full((batch,), length)
    streams = Streams([(7, index) for index in range(batch)], 1, "cpu")

    def action() -> None:
        logits = sampling.filter_logits(decode_step(decoder, ids, positions, cache), SETTINGS)
        sampling.gumbel_sample(logits, streams.gumbel(0, logits.shape[-1]))
        cache.reset(length)

    return action


def seconds(action: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    action()
    return clock() - start


def picture(times: list[float], places: list[int]) -> float:
    """Seconds of a picture from the times of its steps at some places."""
    between = zip(times, times[1:], places, places[1:], strict=False)
    return sum((a + b) / 2 * (q - p) for a, b, p, q in between) * TOKENS / places[-1]


def measure(
    ways: dict[str, Callable[[int], Callable[[], Any]]],
    repeats: int,
    places: list[int],
    clock: Callable[[], float],
) -> dict[str, list[list[float]]]:
    """Seconds of a step of every way, by turn and place. One state at a time is in memory."""
    times: dict[str, list[list[float]]] = {way: [[] for _ in range(repeats)] for way in ways}
    for place in places:
        actions = {way: make(place) for way, make in ways.items()}
        for action in actions.values():
            action()  # the first is slower
        for turn in range(repeats):
            for way, action in actions.items():
                times[way][turn].append(seconds(action, clock))
    return times


def report(times: dict[str, list[list[float]]], places: list[int], batch: int) -> dict[str, Any]:
    whole = {way: [picture(turn, places) for turn in turns] for way, turns in times.items()}
    released, one, many = whole["released"], whole["engine"], whole[f"engine_{batch}"]
    medians = {
        way: [1e3 * statistics.median(turn[i] for turn in turns) for i in range(len(places))]
        for way, turns in times.items()
    }
    return {
        "places": places,
        "ms_a_step": medians,
        "seconds_a_picture": {
            "released": statistics.median(released),
            "engine": statistics.median(one),
            f"engine_{batch}": statistics.median(many) / batch,
        },
        "as_fast_as_released": statistics.median(a / b for a, b in zip(released, one, strict=True)),
        f"as_fast_as_released_in_batches_of_{batch}": statistics.median(
            a * batch / b for a, b in zip(released, many, strict=True)
        ),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--places", type=int, default=PLACES, help="places of the picture that are timed")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--processor", action="store_true", help="processor time; for a busy machine")
    out = Path(__file__).parent / "results" / "decode_released.json"
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clock = time.process_time if given.processor else time.perf_counter
    places = [math.floor(i * (TOKENS - 2) / (given.places - 1)) for i in range(given.places)]
    with torch.inference_mode():
        model = Transformer(CONFIG).eval()
        decoder = pack(model, CODES)
        difference = check(model, decoder)
        ways: dict[str, Callable[[int], Callable[[], Any]]] = {
            "released": lambda place: released_step(model, place),
            "engine": lambda place: engine_step(decoder, place, 1),
            f"engine_{given.batch}": lambda place: engine_step(decoder, place, given.batch),
        }
        times = measure(ways, given.repeats, places, clock)
    found = report(times, places, given.batch)
    for way, steps in found["ms_a_step"].items():
        print(f"{way:12}", " ".join(f"{ms:7.1f}" for ms in steps), "ms a step")
    print(found["seconds_a_picture"], "seconds a picture")
    print(f"as fast as the released loop: {found['as_fast_as_released']:.1f} x")
    print(f"in batches: {found[f'as_fast_as_released_in_batches_of_{given.batch}']:.1f} x")
    found |= {
        "relative_difference_of_logits": difference,
        "released_figures": RECORDED,
        "threads": given.threads,
        "clock": "processor" if given.processor else "wall",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
