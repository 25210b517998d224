"""The loss scale that a shrunk embedding gradient allows (CogView, section 2.4), in all-fp16 training.

    python benchmarks/papers/embedding_gradient.py
    python benchmarks/papers/embedding_gradient.py --rehearse

The scaler doubles after ten updates without an overflow and halves at each, so that it stays at the
largest scale the gradients bear. ``log2_scale`` is the mean of its logarithm over the second half of a run.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from experiment import Experiment, Found, Run, curves, main


def measure(run: Run) -> Found:
    """The mean exponent of the loss scale over the second half, and the last validation loss."""
    scales = run.curve("loss_scale")
    half = [math.log2(scale) for step, scale in scales if step > run.steps / 2]
    scaled = [[step, math.log2(scale)] for step, scale in scales]
    return {"log2_scale": statistics.fmean(half), "loss": run.last(), "scales": scaled}


def plot(found: Found, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    for number, (arm, facts) in enumerate(found["arms"].items()):
        for run in facts["runs"]:
            steps, exponents = zip(*run["figures"]["scales"], strict=True)
            first = run["seed"] == facts["runs"][0]["seed"]
            right.plot(steps, exponents, color=f"C{number}", linewidth=1.1, label=arm if first else None)
    curves(found, left, width=2)
    left.set(xlabel="step", ylabel="training loss, nats a token")
    right.set(xlabel="step", ylabel="log2 of the loss scale")
    right.grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="embedding_gradient",
    claim="CogView, section 2.4: shrinking the gradient of token embeddings to 0.1 increases the dynamic "
    "loss scale and does not hurt performance",
    arms={"whole gradient": ["model.embedding_gradient=1.0"], "a tenth": ["model.embedding_gradient=0.1"]},
    settings=[
        "precision=fp16-o2",
        "batch_size=4",
        "steps=200",
        "model.norm_relax=token",
        "model.numerics=written",
        "model.attention_relax=32",
        "loss_scaler.scale=65536",
        "loss_scaler.window=10",
        "loss_scaler.patience=1",
        "intervals.log=5",
    ],
    rehearsal=["steps=40", "model.layers=1", "model.hidden=16", "model.heads=2", "intervals.evaluate=40"],
    measure=measure,
    seeds=2,
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
