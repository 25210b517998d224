"""The first loss of a run that starts from a model, compared with the model's own loss.

Wrongly loaded weights and a format that the model was not trained on have the same symptom: the loss of the
first batch is far above the model's own. Hours of training would then only repair a broken start, so such a
run is rejected before its first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cogview.errors import CogViewError

ROWS = 8  # of the first batch; both models get the same rows, so few suffice
FACTOR, MARGIN = 1.5, 1.0  # allowed first loss: factor times the model's own loss, plus nats a token


@dataclass(frozen=True)
class FirstLosses:
    """Losses in nats a token, by name (``image_loss``, ``text_loss``), of the same items.

    start: of the model as training begins; init: of the model in ``init``, on its own sequences; differs:
    fields in which the recipe's sequence format differs from the model's, with both values.
    """

    start: Mapping[str, float]
    init: Mapping[str, float]
    differs: Mapping[str, tuple[object, object]]

    def check(self, init: str) -> None:
        """Raise CogViewError if the first loss is far above the model's own loss, or not finite."""
        for name in self.start.keys() & self.init.keys():
            start, own = self.start[name], self.init[name]
            if math.isfinite(start) and start <= FACTOR * own + MARGIN:
                continue
            reasons = [
                f"{field} is {now!r}, the model has {then!r}" for field, (now, then) in self.differs.items()
            ]
            why = "; ".join(reasons[:4]) or "the weights were not loaded as they are stored"
            raise CogViewError(
                f"init: {init}: the first {name} is {start:,.2f} nats, the model's own on the same items is "
                f"{own:,.2f}; training would start from noise ({why})"
            )

    def __str__(self) -> str:
        parts = [
            f"{name} {value:.3f}"
            + (f" (the model in init: {self.init[name]:.3f})" if name in self.init else "")
            for name, value in self.start.items()
        ]
        return "first " + ", ".join(parts)
