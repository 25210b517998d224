"""A training step of `cogview train` against products of its own shapes, and against an earlier commit.

    python benchmarks/training_step.py
    git worktree add ../before a1c147c
    python benchmarks/training_step.py --before ../before/src

The whole step on one thread: loader, forward, loss, backward, clipping, Muon with Adam for the rest. Random
captions and codes; batches of 32 of 289 tokens (30 of text, 16 x 16 codes of 4,096) or 160. Processor time,
which hardly depends on what else runs. With ``--before`` every turn runs both trees, each in a process of its
own, and the ratio is the median over the turns. *Utilisation* is the model's operations (causal attention
counted half, the optimizer not at all) over the rate of matrix products with the layers' own four shapes,
measured between the steps. ``6NT`` are six operations a weight of the layers and token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.training.launch import prepare_directory
from cogview.training.registry import task_class
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer
from cogview.vocabulary import Vocabulary

CODES, PIECES = 4096, 8000
SHAPES = ("8x256x8x289", "8x256x8x160", "5x640x10x289", "5x640x10x160")
GRIDS = {289: (16, 30), 160: (12, 13)}  # tokens: side of the grid, text tokens


def write_data(directory: Path, items: int, side: int, text: int) -> None:
    """Token shards of random codes and captions of ``text`` tokens."""
    rng = np.random.default_rng(0)
    pairs = [
        TokenItem(
            str(number), rng.integers(0, CODES, side * side),
            (TokenCaption(tuple(rng.integers(0, PIECES, text).tolist()), "en", "plain"),), "random", "train",
        )
        for number in range(items)
    ]  # fmt: skip
    layout = ShardLayout((side, side), "uint16", "uint16", ("en",), ("random",), ("train",))
    index = ShardIndex(
        items=items, captions=items, grid=(side, side), codes_type="uint16", texts_type="uint16",
        vocabulary=Vocabulary(image_codes=CODES, text_pieces=PIECES), preprocessing=Preprocessing(size=128),
        image_tokenizer="0" * 16, text_tokenizer="0" * 64, languages=("en",), sources={"random": items},
        splits={"train": items}, shards=(write_shard(directory, "shard-00000", pairs, layout),),
    )  # fmt: skip
    write_atomically(directory / INDEX, index.model_dump_json())


def make_trainer(place: Path, given: argparse.Namespace) -> Trainer:
    """A run that has not begun."""
    layers, hidden, heads, tokens = map(int, given.worker.split("x"))
    (place / "data").mkdir()
    write_data(place / "data", 4 * given.batch, *GRIDS[tokens])
    recipe = TransformerRecipe.model_validate(
        {
            "task": "transformer", "name": "speed", "data": place / "data", "steps": 10_000, "device": "cpu",
            "batch_size": given.batch, "threads": 1, "precision": given.precision, "compile": given.compile,
            "format": {"text_slots": 64}, "ema": given.ema,
            "model": {"layers": layers, "hidden": hidden, "heads": heads, "norm_relax": "none"},
            "optimizer": {"kind": "muon", "lr": 0.02, "adam_lr": 2e-3, "scale": "spectral"},
        }
    )  # fmt: skip
    prepare_directory(recipe, place / "run", False)
    return Trainer(task_class(recipe.task)(recipe), recipe, place / "run", Console(quiet=True))


def product_rate(tokens: int, hidden: int, dtype: torch.dtype) -> float:
    """Operations a second of a layer's four products, in processor time."""
    work = seconds = 0.0
    for inputs, outputs in (
        (hidden, 3 * hidden),
        (hidden, hidden),
        (hidden, 4 * hidden),
        (4 * hidden, hidden),
    ):
        x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(inputs, outputs).to(dtype)
        x @ weight
        began = time.process_time()
        for _ in range(2):
            x @ weight
        seconds += time.process_time() - began
        work += 2 * 2.0 * tokens * inputs * outputs
    return work / seconds


def work(given: argparse.Namespace) -> None:
    """Time the steps of one tree and shape, and print them as JSON."""
    torch.set_num_threads(1)
    hidden = int(given.worker.split("x")[1])
    dtype = torch.float32 if given.precision == "fp32" else torch.bfloat16
    found: dict[str, Any] = {"seconds": [], "rates": []}
    with tempfile.TemporaryDirectory() as place:
        trainer: Any = make_trainer(Path(place), given)
        step = getattr(trainer, "train_step", None) or trainer._train_step  # as it was called before
        batches = iter(trainer.task.loader(None))
        step(batches)
        for _ in range(given.steps):
            trainer.meter._clear()
            began = time.process_time()
            step(batches)
            found["seconds"].append(time.process_time() - began)
            tokens = trainer.meter._tokens
            found["rates"].append(product_rate(tokens, hidden, dtype))
        if given.profile:
            profile(step, batches)
    seconds, rate = statistics.median(found["seconds"]), max(found["rates"])
    weights = sum(p.numel() for p in trainer.model.blocks.parameters())
    found |= {
        "step": seconds,
        "tokens": tokens,
        "matrix_gflops": rate / 1e9,
        "gflops": trainer.meter._operations / seconds / 1e9,
        "gflops_6NT": 6 * weights * tokens / seconds / 1e9,
        "utilisation": trainer.meter._operations / seconds / rate,
    }
    print(json.dumps(found))


def profile(step: Any, batches: Any) -> None:
    """A table of the operations of a step, on the standard error."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        step(batches)
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45)
    print(table, file=sys.stderr)


def run(tree: Path, shape: str, given: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """What :func:`work` prints in a process that imports the package from ``tree``."""
    command = [sys.executable, __file__, "--worker", shape, "--steps", str(given.steps)]
    command += ["--batch", str(given.batch), "--precision", given.precision, *more]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(shape: str, given: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """Some turns of one shape, and what follows from them."""
    here = Path(__file__).parents[1] / "src"
    turns = []
    for _ in range(given.turns):
        turn = {"after": run(here, shape, given, more)}
        if given.before:
            turn["before"] = run(given.before, shape, given, [])
        turns.append(turn)
    result: dict[str, Any] = {"turns": turns}
    for name in turns[0]:
        for figure in ("step", "gflops", "gflops_6NT", "matrix_gflops", "utilisation"):
            result[f"{name}_{figure}"] = round(statistics.median(turn[name][figure] for turn in turns), 4)
    if given.before:
        result["times"] = statistics.median(turn["before"]["step"] / turn["after"]["step"] for turn in turns)
    print(shape, {name: value for name, value in result.items() if name != "turns"}, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="an earlier checkout's src")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="layers x hidden x heads x tokens")
    for name, value in (("batch", 32), ("steps", 3), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--ema", type=float, help="with a moving average of this decay")
    parser.add_argument("--compile", action="store_true", help="as with the recipe's compile: true")
    parser.add_argument("--profile", action="store_true", help="print a profile of a step")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("results") / "training_step.json"
    )
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    more = [flag for flag, on in (("--compile", given.compile), ("--profile", given.profile)) if on]
    shapes = {shape: measure(shape, given, more) for shape in given.shapes}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    machine = {
        "command": " ".join(["python", "benchmarks/training_step.py", *sys.argv[1:]]),
        "machine": platform.machine(),
        "processor": next((x.split(":")[1].strip() for x in flags.splitlines() if "model name" in x), ""),
        "instructions": sorted({"avx512_bf16", "amx_bf16", "avx512f", "avx2"} & set(flags.split())),
        "torch": torch.__version__,
    }
    given.out.write_text(json.dumps({"shapes": shapes, "settings": settings, **machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
