"""The loss against the tokens trained on, by batch size and rate (CogView, section 2.3).

    python benchmarks/papers/tokens_seen.py
    python benchmarks/papers/tokens_seen.py --rehearse

Every arm sees the same number of sequences; twice the batch has half the steps and twice the rate.
"""

from __future__ import annotations

from typing import Any

from experiment import Experiment, Found, curves, main

SEQUENCES, RATE = 3840, 1.25e-4 / 4  # of all arms; the rate of one sequence a batch
BATCHES = (8, 16, 32, 64)


def overrides(batch: int, sequences: int = SEQUENCES) -> list[str]:
    """Batch, steps and rate of an arm; about forty points a curve."""
    steps = sequences // batch
    log = max(1, steps // 40)
    rates = [f"optimizer.lr={RATE * batch}", f"intervals.log={log}", f"intervals.evaluate={steps}"]
    return [f"batch_size={batch}", f"steps={steps}", *rates]


def plot(found: Found, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    curves(found, left, {f"batch {batch}": batch for batch in BATCHES}, width=1)
    left.set(xlabel="sequences trained on", ylabel="training loss, nats a token")
    curves(found, right, width=1)
    right.set(xlabel="step")


EXPERIMENT = Experiment(
    name="tokens_seen",
    claim="CogView, section 2.3: the training loss mainly depends on the total number of trained tokens; "
    "doubling the batch size (and learning rate) results in a very similar loss",
    arms={f"batch {batch}": overrides(batch) for batch in BATCHES},
    rehearsal=["model.layers=1", "model.hidden=16"],
    rehearsed={f"batch {batch}": overrides(batch, 192) for batch in BATCHES},
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
