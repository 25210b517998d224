"""Sandwich-LN against pre-LN at a normal learning rate (CogView, section 2.4), in fp32.

A third arm starts the norms that end a branch at a gain of 0.25 instead of 1, this package's own addition.

python benchmarks/papers/sandwich.py
python benchmarks/papers/sandwich.py --rehearse
"""

from __future__ import annotations

from typing import Any

from experiment import Experiment, Found, bars, curves, main


def plot(found: Found, figure: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    curves(found, left, width=2)
    left.set(xlabel="step", ylabel="training loss, nats a token")
    bars(found, right, "loss")
    values = [own["figures"]["loss"]["value"] for own in found["arms"].values()]
    right.set(ylabel="validation loss", ylim=(min(values) * 0.95, max(values) * 1.03))


EXPERIMENT = Experiment(
    name="sandwich",
    claim="CogView, section 2.4: the influence of Sandwich-LN on convergence is negligible (500M model)",
    arms={
        "pre-LN": ["model.norm=pre"],
        "Sandwich-LN": ["model.norm=sandwich"],
        "gain 0.25": ["model.norm=sandwich", "model.branch_gain=0.25"],
    },
    rehearsal=["steps=12", "model.layers=1", "model.hidden=16", "intervals.evaluate=12"],
    settings=["model.layers=6"],
    seeds=2,
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
