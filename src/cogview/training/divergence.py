"""Handling of diverging losses: skip updates, roll back, or stop with an error.

An update is skipped if its loss or gradient is not finite, or its loss is far above the previous ones. (In
fp16 a gradient that overflows although the loss is good lowers the loss scale, and counts as skipped only
once the scale cannot fall further.) After too many skipped updates in a row the weights themselves are bad:
the run goes back to the last checkpoint followed by a good loss and continues with the next data, so that it
does not see the same batches again (as in PaLM, Chowdhery et al., 2022, section 5.1). If that has been tried,
or there is no such checkpoint, it stops with :class:`~cogview.errors.TrainingDiverged`.
"""

from __future__ import annotations

import math
from statistics import median

import torch
from pydantic import Field
from torch import nn

from cogview.config import Config
from cogview.errors import TrainingDiverged

RECENT, FIRST = 64, 16  # numbers of latest losses that a new one is compared with, and of first losses
ENDING = 5  # skipped updates at the very end that make a run fail
SIGMAS = 10.0
LARGEST = torch.finfo(torch.float16).max  # models are stored in half precision


class Guard(Config):
    """spike: an update is skipped if its loss exceeds the median of the latest losses by more than this
    multiple of it (default: the task's; 0: skip only losses that are not finite). patience: skipped updates
    in a row before the run rolls back; rollbacks: maximum number of rollbacks before it stops."""

    spike: float | None = Field(None, ge=0)
    patience: int = Field(50, ge=1)
    rollbacks: int = Field(2, ge=0)


class GuardState(Config):
    """The state in a checkpoint: the losses of the latest and of the first updates, in order; the last step
    whose weights had a good loss; the number of rollbacks."""

    recent: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    sound: int = -1
    rollbacks: int = 0


class LossMonitor:
    """Monitors the losses of one run. A loss is a spike if it exceeds the median by more than ``factor``
    times the median and more than ``margin``."""

    def __init__(self, factor: float, margin: float, state: GuardState | None = None) -> None:
        self.factor, self.margin, self.state = factor, margin, state or GuardState()

    def limit(self) -> float:
        """The largest loss that is not a spike."""
        recent = self.state.recent
        if not recent or not self.factor:
            return math.inf
        centre = median(recent)
        sigma = 1.4826 * median(abs(loss - centre) for loss in recent)
        return centre + max(SIGMAS * sigma, self.factor * abs(centre), self.margin)

    def is_good(self, loss: float) -> bool:
        """Whether an update with this loss may be made."""
        return math.isfinite(loss) and loss <= self.limit()

    def accept(self, loss: float, step: int) -> None:
        """Record a good loss, that of the weights after ``step`` updates, whose update was made."""
        state = self.state
        first = state.first if len(state.first) == FIRST else (*state.first, loss)
        recent = (*state.recent, loss)[-RECENT:]
        self.state = state.model_copy(update={"recent": recent, "first": first, "sound": step})

    def explain(self, guard: Guard, reason: str, has_checkpoint: bool) -> str:
        """The cause, the attempts and the advice in one line."""
        attempts = f"; rolled back {self.state.rollbacks} times in vain" if self.state.rollbacks else ""
        if not has_checkpoint:
            attempts += "; there is no checkpoint from before"
        return (
            f"{reason}, {guard.patience} times in a row{attempts}; lower optimizer.lr, warm up for longer "
            "(schedule.warmup), or use another precision"
        )

    def check_end(self, step: int, skipped: int, reason: str) -> None:
        """Raise TrainingDiverged if the run ended diverged.

        skipped: updates skipped at the very end; reason: of the last one skipped.
        """
        problem = None
        if skipped >= ENDING:
            problem = f"the last {skipped} updates were skipped: {reason}"
        elif reason and not self.state.recent:
            problem = f"no update was made: {reason}"
        elif (ends := self.ended_above()) is not None:
            problem = f"the loss rose from {ends[0]:.4g} to {ends[1]:.4g}"
        if problem is not None:
            raise TrainingDiverged(f"step {step}: {problem}; no model was exported; lower optimizer.lr")

    def ended_above(self) -> tuple[float, float] | None:
        """The first and last loss of a run, if the last is far above the first."""
        first, last = self.state.first, self.state.recent[-FIRST:]
        if len(first) < FIRST or not self.factor:
            return None
        start, end = median(first), median(last)
        above = end - start > max(self.factor * abs(start), self.margin)
        return (start, end) if above else None


@torch.no_grad()
def bad_weight(model: nn.Module) -> str | None:
    """The name of a parameter with values that half precision cannot represent, or None."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and not float(value.abs().max()) <= LARGEST:
            return name
    return None
