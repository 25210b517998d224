"""All-fp16 training (O2) with and without PB-relax and Sandwich-LN (CogView, section 2.4), in one command.

python benchmarks/papers/o2_overflow.py
python benchmarks/papers/o2_overflow.py --rehearse

Both arms have the same data, seed, rate (0.08, within the paper's 0.01 to 0.1) and arithmetic, `precision:
fp16-o2` of `cogview train`. A run ends where ten updates in a row have to be left out; ``ended`` is that
step. The data can be learnt by heart: each code decides the next, and the caption the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiment import Experiment, Found, Run, curves, main
from world import World, write_shards

from cogview.data.shards import TokenCaption, TokenItem

CODES, GRID = 64, (4, 6)


def chain(first: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(24,) codes, each the image of the one before under a permutation drawn by ``seed``."""
    after, codes = np.random.default_rng(seed).permutation(CODES), [first]
    while len(codes) < GRID[0] * GRID[1]:
        codes.append(int(after[codes[-1]]))
    return np.array(codes, dtype=np.int64)


def write_chains(directory: Path, world: World) -> Path:
    """Token shards of ``world.items`` chains, an eighth of them for validation."""
    starts = np.random.default_rng(world.seed + 1).integers(0, CODES, world.items).tolist()
    items = [
        TokenItem(
            str(number),
            chain(first, world.seed),
            (TokenCaption((first,), "en", "plain"),),
            "chains",
            "train" if number % 8 else "val",
        )
        for number, first in enumerate(starts)
    ]
    return write_shards(directory, items, GRID, CODES, CODES, ("en",), "chains")


def measure(run: Run) -> Found:
    """The first and the last training losses of the codes, and the least loss scale."""
    losses, scales = run.curve("image_loss"), run.curve("loss_scale")
    return {
        "first_loss": losses[0][1],
        "last_loss": losses[-1][1],
        "least_scale": min(scale for _, scale in scales),
    }


def plot(found: Found, figure: Any) -> None:
    axes = figure.subplots()
    curves(found, axes)
    for number, (arm, facts) in enumerate(found["arms"].items()):
        for run in facts["runs"]:
            if run["ended"] is not None and run["curve"]:
                axes.plot(*run["curve"][-1], "x", color=f"C{number}", markersize=9, markeredgewidth=2)
                axes.annotate(f" {arm}: ended at step {run['ended']}", run["curve"][-1], fontsize="small")
    axes.set(xlabel="step", ylabel="training loss, nats a code")


EXPERIMENT = Experiment(
    name="o2_overflow",
    claim="CogView, section 2.4: an ordinary pre-LN Transformer in FP16 quickly results in NaN loss; "
    "PB-relax and Sandwich-LN eliminate overflow and make it trainable in almost FP16 (O2)",
    arms={
        "without": ["model.norm=pre"],
        "with both": ["model.norm=sandwich", "model.norm_relax=token", "model.attention_relax=32"],
    },
    settings=[
        "precision=fp16-o2",
        "model.numerics=written",
        "model.layers=2",
        "model.hidden=256",
        "model.heads=1",
        "format.text_slots=2",
        "batch_size=4",
        "steps=80",
        "optimizer.lr=0.08",
        "optimizer.weight_decay=0",
        "schedule={kind: linear, warmup: 0.125, hold: 0.5, floor: 0.0}",
        "loss_scaler.patience=1",
        "guard.spike=0",
        "guard.patience=10",
        "guard.rollbacks=0",
        "validation.items=32",
        "intervals.log=2",
    ],
    rehearsal=["steps=8", "model.hidden=16", "model.heads=2", "intervals.evaluate=8"],
    measure=measure,
    curve="image_loss",
    data=write_chains,
    worlds=(World(items=512), World(items=64)),
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
