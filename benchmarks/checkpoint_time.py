"""How long a checkpoint holds the training up: written at once, and behind its back.

    python benchmarks/checkpoint_time.py
    torchrun --nproc-per-node 2 benchmarks/checkpoint_time.py

A transformer's weights and AdamW's two moments, as a step leaves them. Under torchrun they are sharded
by FSDP and written by all ranks together. Both ways in turns; the time is that of the call in the training
thread. A checkpoint in the background has ended before the next begins.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogview.training.allocator import keep_freed_memory
from cogview.training.checkpoint.directory import TrainState
from cogview.training.checkpoint.writer import CheckpointWriter
from cogview.training.optim import AdamWConfig, PhaseOptimizer, hidden_matrices, local
from cogview.training.parallel import Parallel
from cogview.training.parallel.fsdp import Sharded
from cogview.training.parallel.ranks import Ranks
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

HERE = Path(__file__).parent


def tensors(ranks: Ranks, layers: int, hidden: int) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds after a step, on this rank."""
    torch.manual_seed(0)
    shape = TransformerConfig(
        layers=layers, hidden=hidden, heads=hidden // 64, vocab_size=12416, max_positions=256
    )
    model = Transformer(shape)
    engine = Sharded if ranks.world > 1 else ParallelStrategy
    engine(ranks, Parallel(kind="fsdp")).place(model, lambda module: None)
    optimizer = PhaseOptimizer(model.named_parameters(), AdamWConfig(), hidden_matrices(model))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.tensors()}


def measure(ranks: Ranks, held: dict[str, dict[str, Tensor]], place: Path, turns: int) -> dict[str, Any]:
    """Seconds in the training thread of each turn, by way."""
    writers = {
        way: CheckpointWriter(
            place / way, ranks, sharded=ranks.world > 1, background=way == "asynchronous", keep=1, every=0
        )
        for way in ("synchronous", "asynchronous")
    }
    seconds: dict[str, list[float]] = {way: [] for way in writers}
    for turn in range(turns + 1):  # the first one warms up: buffers are made then
        for way, writer in writers.items():
            ranks.maximum((0,))
            began = time.perf_counter()
            writer.save(TrainState(step=turn), held)
            took = time.perf_counter() - began
            writer.wait()
            if turn:
                seconds[way].append(took)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--place", type=Path, default=HERE / "work" / "checkpoint_time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    ranks = Ranks.join(torch.device("cpu"), 30)
    held = tensors(ranks, options.layers, options.hidden)
    size = sum(local(value).nbytes for group in held.values() for value in group.values())
    seconds = measure(ranks, held, options.place, options.turns)
    if ranks.first:
        medians = {way: statistics.median(found) for way, found in seconds.items()}
        facts = {
            "ranks": ranks.world,
            "megabytes a rank": round(size / 1e6, 1),
            "seconds": {way: [round(x, 4) for x in found] for way, found in seconds.items()},
            "median": {way: round(x, 4) for way, x in medians.items()},
            "asynchronous over synchronous": round(medians["asynchronous"] / medians["synchronous"], 4),
        }
        print(json.dumps(facts, indent=2))
        shutil.rmtree(options.place, ignore_errors=True)
    ranks.leave()


if __name__ == "__main__":
    main()
