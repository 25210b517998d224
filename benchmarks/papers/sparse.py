"""Three-region sparse attention against dense, in whole trainings of over 1,024 tokens (CogView, appendix B).

    python benchmarks/papers/sparse.py
    python benchmarks/papers/sparse.py --rehearse

The same data, seed and recipe; the sparse arm has the sizes for the paper's sequence of 1,088: a window of
4 x 64 tokens and 256 pivots. Each run has a process of its own, whose memory is the trainer's figure.
Validation losses are causal for both.
"""

from __future__ import annotations

from typing import Any

from experiment import Experiment, Found, Run, curves, main
from world import World

SPARSE = "attention={kind: three_region, window: 64, times: 4, pivots: 256}"
TINY = "attention={kind: three_region, window: 8, times: 2, pivots: 56}"


def measure(run: Run) -> Found:
    """Validation loss, processor time and the most memory of a run."""
    seconds = run.processor_seconds / max(1, run.steps)
    return {"loss": run.last(), "seconds_a_step": seconds, "memory": float(run.last("memory", "train") or 0)}


def plot(found: Found, figure: Any) -> None:
    axes = figure.subplots()
    curves(found, axes, width=2)
    axes.set(xlabel="step", ylabel="training loss, nats a token")


EXPERIMENT = Experiment(
    name="sparse",
    claim="CogView, appendix B: the whole training is 1.5 times as fast as with vanilla attention and saves "
    "20 % of the memory; the loss curves are nearly identical",
    arms={"dense": ["attention=causal"], "three-region": [SPARSE]},
    rehearsed={"three-region": [TINY]},
    settings=["batch_size=2", "steps=40", "validation.items=16"],
    rehearsal=["steps=4", "model.layers=1", "model.hidden=16", "model.heads=2", "intervals.evaluate=4"],
    measure=measure,
    worlds=(World(items=2048, side=32), World(items=64, side=8)),
    apart=True,
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
