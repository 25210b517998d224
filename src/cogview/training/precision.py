"""Precision: fp32; bf16 or fp16 by autocast with fp32 weights; all-fp16; and loss scaling for fp16.

``fp16-o2`` is the papers' regime (CogView, section 2.4; O2 in Apex's terms): weights, activations and
gradients are fp16 tensors; the optimizer updates fp32 master copies of the weights with fp32 states and
rounds them to fp16. The model's PB-relax and Sandwich-LN are designed for it: under autocast (O1) the
residual stream and the norms that read it stay fp32.

In every precision the optimizer and checkpoints keep weights in fp32, so a run can be resumed in another.
``auto`` is bf16 where that is faster: on GPUs that support it, and on a CPU if it was measured to be faster;
else fp32.

The loss scaler is the released code's (Megatron's): halve on overflow once the hysteresis is used up, double
after a window of steps without overflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pydantic import Field

from cogview.config import Config
from cogview.transformer.processor import multiplies_bf16

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp16-o2"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp16-o2": torch.float16}
SCALED = ("fp16", "fp16-o2")  # small gradients would underflow in these without a loss scale
ALL_HALF = "fp16-o2"


def resolve(precision: Precision, device: torch.device) -> Precision:
    """The precision that ``auto`` stands for on this device; any other unchanged."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and multiplies_bf16() else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a loss is computed."""
    if precision in ("fp32", ALL_HALF):
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


class LossScaler(Config):
    """Dynamic loss scaling as immutable data: ``update`` returns the scaler after a step.

    ``patience`` (released: hysteresis, ``delayed_shift``): overflows that are tolerated before the scale is
    first halved; reset when the scale grows. ``good``: steps since the last overflow; ``left``: the patience
    left.
    """

    scale: float = Field(2.0**16, gt=0)
    window: int = Field(1000, ge=1)
    minimum: float = Field(1.0, gt=0)
    patience: int = Field(2, ge=1)
    good: int = 0
    left: int | None = None

    def at(self, other: LossScaler) -> LossScaler:
        """This scaler with the scale and counters of another."""
        return self.model_copy(update={"scale": other.scale, "good": other.good, "left": other.left})

    def update(self, overflow: bool) -> LossScaler:
        """The scaler after a step that did or did not overflow."""
        left = self.patience if self.left is None else self.left
        if overflow:
            if left > 1:
                return self.model_copy(update={"left": left - 1, "good": 0})
            return self.model_copy(
                update={"scale": max(self.scale / 2, self.minimum), "left": left, "good": 0}
            )
        good = self.good + 1
        if good % self.window:
            return self.model_copy(update={"good": good, "left": left})
        return self.model_copy(update={"good": good, "left": self.patience, "scale": self.scale * 2})
