"""Learning-rate schedules: warm-up, then cosine, linear or constant; and the released code's formula.

CogView trains with 2 % warm-up and cosine annealing (section 2.3). The released ``AnnealingLR`` differs: its
decay spans as many iterations as the run *after* the warm-up, so a run ends before the floor.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config


class Schedule(Config):
    """A learning-rate schedule, in fractions of the run's steps and of the peak rate.

    ``warmup`` and ``hold`` are fractions of the steps: a linear rise, then the peak rate; the rest decays to
    ``floor`` times the peak. ``released_…`` follow the released code and have no ``hold``.
    """

    kind: Literal[
        "cosine", "linear", "constant", "released_cosine", "released_linear", "released_constant"
    ] = "cosine"
    warmup: float = Field(0.02, ge=0, le=1)
    hold: float = Field(0.0, ge=0, le=1)
    floor: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup + self.hold > 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} together exceed the whole run")
        if self.hold and self.kind.startswith("released"):
            raise ValueError(f"{self.kind} has no hold; set hold to 0 or choose cosine or linear")
        return self

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of update ``step`` (0 is the first) of ``steps``, as a fraction of the peak."""
        if self.kind.startswith("released"):
            return released_factor(self.kind.removeprefix("released_"), step, steps, self.warmup, self.floor)
        warmup = round(self.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        start = warmup + round(self.hold * steps)
        if self.kind == "constant" or step < start:
            return 1.0
        progress = min(1.0, (step - start) / max(1, steps - 1 - start))
        decay = (1 + math.cos(math.pi * progress)) / 2 if self.kind == "cosine" else 1 - progress
        return self.floor + (1 - self.floor) * decay


def released_factor(style: str, iteration: int, iterations: int, warmup: float, floor: float) -> float:
    """``AnnealingLR`` of the released code at ``iteration``, as a fraction of the peak rate.

    ``floor`` is 1 / ``decay_ratio``, 0.1 in the released code; an unknown ``style`` is constant there.
    """
    first = warmup * iterations
    if warmup > 0 and iteration <= first:
        return iteration / first
    past = iteration - first
    if style == "linear":
        return (iterations - past) / iterations
    if style == "cosine":
        decay = (math.cos(math.pi * min(1.0, past / iterations)) + 1) / 2
        return floor * ((1 / floor - 1) * decay + 1) if floor else decay
    return 1.0
