"""CogView2's hierarchy against a base model with sliding-window super-resolution: one size, one run.

    python benchmarks/hierarchical.py

All models have the same layers and width, random weights (which do not change the time) and one final size,
``--side`` codes square. *sliding* is CogView (section 3.1): a base draws half the side, one code after the
other, then nine windows of super-resolution draw the large picture the same way. *hierarchical* is CogView2
(section 3.3): a CogLM draws a third of the side, one forward makes the large picture, six more correct it.
Both use this package's engine with its cache, image-only output and top-k 200, from codes to codes. They take
turns; ratios are medians over the turns. Forwards over large codes are counted by hand and by hooks.

*released* is *sliding* by the released algorithm (decode_released.py), one picture at a time: its steps are
timed at three lengths of its memory, and added up over all tokens that it draws, with straight lines between.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.hierarchical import Upscaler, direct_super_resolution, iterative_super_resolution
from cogview.generation.loop import SequenceRequest
from cogview.generation.window_super_resolution import SmallImage, upscale_codes
from cogview.generation.windows import sliding_windows
from cogview.sequences import CogLMFormat, ImageFormat, SequenceFormat
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, upscaler_config
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import Precision, SamplingParams
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

SETTINGS = SamplingParams(top_k=200)
TEXT = tuple(range(12))
CODES, PIECES = 4096, 7500

Numbers = Sequence[int]


@dataclass
class Way:
    """One pipeline: ``run(pictures)`` gives seconds by step, ``forwards`` those over large codes."""

    run: Callable[[Numbers], dict[str, float]]
    forwards: dict[str, int]


def model(layers: int, hidden: int, vocabulary: Vocabulary, positions: int) -> TransformerConfig:
    """The one size."""
    return TransformerConfig(
        layers=layers,
        hidden=hidden,
        heads=hidden // 32,
        vocab_size=vocabulary.padded_size,
        max_positions=positions,
        norm_relax="none",
    )


def sliding(
    side: int, layers: int, hidden: int, clock: Callable[[], float], precision: Precision = "fp32"
) -> Way:
    """A base for half the side, and windows of that size over a quarter of it."""
    half = side // 2
    vocabulary = Vocabulary(image_codes=CODES, text_pieces=PIECES)
    base = SequenceFormat(vocabulary=vocabulary, grid=(half, half))
    large = SequenceFormat(
        kind="super_resolution", vocabulary=vocabulary, grid=(half, half), context_grid=(half // 2, half // 2)
    )
    networks = [
        Transformer(model(layers, hidden, vocabulary, form.max_positions)).eval() for form in (base, large)
    ]
    first, second = (Engine(pack(network, slice(0, CODES), precision)) for network in networks)

    def run(pictures: Numbers) -> dict[str, float]:
        start = clock()
        drawn = first_stage(first, base, pictures)
        middle = clock()
        small = [SmallImage(TEXT, drawn[i].reshape(half, half), 0, n) for i, n in enumerate(pictures)]
        found = dict(upscale_codes(second, large, small, SETTINGS))
        assert all(codes.shape == (side, side) for codes in found.values())
        return {"first stage": middle - start, "large": clock() - middle}

    windows = sliding_windows((side, side), (half, half))
    return Way(run, {"large codes drawn one by one": side * side, "windows": len(windows)})


def first_stage(engine: Engine, form: ImageFormat, pictures: Numbers) -> dict[int, Any]:
    """The codes of each picture."""
    prompt = form.image_prompt(TEXT)
    negative = form.image_prompt(()) if SETTINGS.guidance_scale != 1 else None
    requests = [SequenceRequest(prompt, 0, number, negative) for number in pictures]
    return dict(engine.generate(requests, SETTINGS))


def hierarchical(
    side: int, layers: int, hidden: int, clock: Callable[[], float], precision: Precision = "fp32"
) -> Way:
    """A CogLM for a third of the side, one direct and six iterative forwards."""
    third = side // 3
    vocabulary = Vocabulary(image_codes=CODES, text_pieces=PIECES, controls=COGVIEW2_CONTROLS)
    form = CogLMFormat(vocabulary=vocabulary, text_slots=64, grid=(third, third))
    config = model(layers, hidden, vocabulary, form.max_positions)
    engine = Engine(pack(Transformer(config).eval(), slice(0, CODES), precision))
    forms = DirectFormat.over(form, 3, form.max_positions), IterativeFormat.over(form, 3, form.max_positions)
    networks = [Transformer(upscaler_config(config, large)).eval() for large in forms]
    direct = Upscaler(networks[0], forms[0], precision=precision)
    iterative = Upscaler(networks[1], forms[1], precision=precision)
    forwards = {"direct": 0, "iterative": 0}
    for name, network in zip(forwards, networks, strict=True):
        network.register_forward_hook(lambda *_, name=name: forwards.update({name: forwards[name] + 1}))

    def run(pictures: Numbers) -> dict[str, float]:
        start = clock()
        small = first_stage(engine, form, pictures)
        middle = clock()
        texts = [TEXT] * len(pictures)
        codes = direct_super_resolution(direct, texts, np.stack([small[i] for i in range(len(pictures))]))
        once = clock()
        found = iterative_super_resolution(iterative, texts, codes)
        assert found.shape == (len(pictures), side * side)
        return {"first stage": middle - start, "direct": once - middle, "iterative": clock() - once}

    return Way(run, forwards)


def released(side: int, layers: int, hidden: int, clock: Callable[[], float], repeats: int = 3) -> float:
    """Seconds of a picture by sliding windows with the released loop, added up from timed steps."""
    half, text = side // 2, len(TEXT) + 3
    path = Path(__file__).with_name("decode_released.py")
    spec = importlib.util.spec_from_file_location("decode_released", path)
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    context = text + (half // 2) ** 2 + 5
    longest = context + half * half
    script.CONFIG = model(layers, hidden, Vocabulary(image_codes=CODES, text_pieces=PIECES), longest + 1)
    script.CODES, script.CONTEXT = slice(0, CODES), 0
    network = Transformer(script.CONFIG).eval()
    lengths, seconds = [text, (text + longest) // 2, longest], list[float]()
    for length in lengths:
        step = script.released_step(network, length)
        step()
        seconds.append(statistics.median(script.seconds(step, clock) for _ in range(repeats)))
    drawn = [*range(text, text + half * half)]
    done = np.zeros((side, side), dtype=bool)
    for window in sliding_windows((side, side), (half, half)):
        part = done[window.top : window.top + window.rows, window.left : window.left + half]
        drawn += [context + int(place) for place in np.flatnonzero(~part.ravel())]
        part[...] = True
    return float(np.interp(drawn, lengths, seconds).sum())


def measure(ways: dict[str, Way], images: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds by step of every way and turn; the first turn is for warming up."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            times = way.run(range(images))
            if turn:
                found[name].append(times)
                print(f"{name:13}", {step: round(s, 2) for step, s in times.items()}, flush=True)
    return found


def report(times: dict[str, list[dict[str, float]]], images: int) -> dict[str, Any]:
    """Medians and ratios."""
    whole = {name: [sum(turn.values()) for turn in turns] for name, turns in times.items()}
    ratios = [a / b for a, b in zip(whole["sliding"], whole["hierarchical"], strict=True)]
    large = {
        name: [sum(turn.values()) - turn["first stage"] for turn in turns] for name, turns in times.items()
    }
    return {
        "seconds_a_picture": {name: statistics.median(found) / images for name, found in whole.items()},
        "seconds_by_step": {
            name: {step: statistics.median(turn[step] for turn in turns) / images for step in turns[0]}
            for name, turns in times.items()
        },
        "as_fast": statistics.median(ratios),
        "as_fast_after_the_first_stage": statistics.median(
            a / b for a, b in zip(large["sliding"], large["hierarchical"], strict=True)
        ),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--side", type=int, default=48, help="final codes a side; a multiple of 12")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--images", type=int, default=1, help="drawn together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both of ours")
    parser.add_argument("--processor", action="store_true", help="processor time; for a busy machine")
    out = Path(__file__).parent / "results" / "hierarchical.json"
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.side % 12:
        raise SystemExit("--side must be a multiple of 12: thirds are drawn, and halves over quarters")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clock = time.process_time if given.processor else time.perf_counter
    shape = given.side, given.layers, given.hidden, clock
    ways = {
        "sliding": sliding(*shape, given.precision),
        "hierarchical": hierarchical(*shape, given.precision),
    }
    found = report(measure(ways, given.images, given.rounds), given.images)
    with torch.inference_mode():
        found["seconds_a_picture"]["released"] = released(*shape)
    ours = found["seconds_a_picture"]["hierarchical"]
    found["as_fast_as_released"] = found["seconds_a_picture"]["released"] / ours
    runs = given.rounds + 1
    count = {step: forwards // runs for step, forwards in ways["hierarchical"].forwards.items()}
    found["forwards_over_large_codes"] = {"sliding": ways["sliding"].forwards, "hierarchical": count}
    print(found["seconds_a_picture"], "seconds a picture")
    print(
        f"hierarchical is {found['as_fast']:.1f} x as fast; as released {found['as_fast_as_released']:.1f} x"
    )
    print(f"after the first stage {found['as_fast_after_the_first_stage']:.1f} x; forwards {count}")
    found |= {
        name: getattr(given, name) for name in ("side", "layers", "hidden", "images", "threads", "precision")
    }
    found |= {
        "clock": "processor" if given.processor else "wall",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
