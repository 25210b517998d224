"""What a run does about losses that run away: leave updates out, roll back, or stop and say so.

An update whose loss or gradient is not finite, or whose loss stands far above those before it, is left out.
(In fp16 a gradient that overflows with a good loss lowers the loss scale, and counts only once that can fall
no further.) After too many in a row the weights themselves are bad: the run goes back to the last checkpoint
from which a good loss was seen, and on with the data that come next, so that it does not meet the same
batches again (as PaLM was trained, Chowdhery et al., 2022, section 5.1). Where that has been tried, or
nothing is there to go back to, it ends with an error of its own (:class:`~cogview.errors.TrainingDiverged`).
"""

from __future__ import annotations

import math
from statistics import median

import torch
from pydantic import Field
from torch import nn

from cogview.config import Config
from cogview.errors import TrainingDiverged

RECENT, FIRST = 64, 16  # losses that a new one is compared with; those a run began with
ENDING = 5  # updates left out at the very end of a run that ended badly
SIGMAS = 10.0
LARGEST = torch.finfo(torch.float16).max  # models are stored in half precision


class Guard(Config):
    """spike: an update is left out where its loss is above the median of the last ones by more than this many
    times that (default: what suits the task; 0: only what is not finite is). patience: updates left out in a
    row before the run rolls back; rollbacks: how often it may, before it stops."""

    spike: float | None = Field(None, ge=0)
    patience: int = Field(50, ge=1)
    rollbacks: int = Field(2, ge=0)


class GuardState(Config):
    """What a checkpoint keeps: the losses of the last updates and of the first, in order; the last step whose
    weights gave a good loss; how often the run has rolled back."""

    recent: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    sound: int = -1
    rollbacks: int = 0


class Watch:
    """Losses of one run. ``factor`` and ``margin``: how far above the median is too far, as a multiple of it
    and in the loss's own unit; whichever is more."""

    def __init__(self, factor: float, margin: float, state: GuardState | None = None) -> None:
        self.factor, self.margin, self.state = factor, margin, state or GuardState()

    def limit(self) -> float:
        """The largest loss that is not a spike."""
        recent = self.state.recent
        if not recent or not self.factor:
            return math.inf
        middle = median(recent)
        sigma = 1.4826 * median(abs(loss - middle) for loss in recent)
        return middle + max(SIGMAS * sigma, self.factor * abs(middle), self.margin)

    def good(self, loss: float) -> bool:
        """Whether an update with this loss may be made."""
        return math.isfinite(loss) and loss <= self.limit()

    def accept(self, loss: float, step: int) -> None:
        """The update of a good loss was made; it was that of the weights after ``step`` updates."""
        state = self.state
        first = state.first if len(state.first) == FIRST else (*state.first, loss)
        recent = (*state.recent, loss)[-RECENT:]
        self.state = state.model_copy(update={"recent": recent, "first": first, "sound": step})

    def story(self, guard: Guard, why: str, has_checkpoint: bool) -> str:
        """What went wrong, what was tried, what to do, in one line."""
        tried = f"; rolled back {self.state.rollbacks} times in vain" if self.state.rollbacks else ""
        if not has_checkpoint:
            tried += "; there is no checkpoint from before"
        return (
            f"{why}, {guard.patience} times in a row{tried}; lower optimizer.lr, warm up for longer "
            "(schedule.warmup), or take another precision"
        )

    def check_end(self, step: int, skipped: int, why: str) -> None:
        """Raise TrainingDiverged where the run is over and has not learnt but run away.

        skipped: updates left out at the very end; why: the last one was.
        """
        told = None
        if skipped >= ENDING:
            told = f"the last {skipped} updates were left out: {why}"
        elif why and not self.state.recent:
            told = f"no update was made: {why}"
        elif (ends := self.ended_above()) is not None:
            told = f"the loss rose from {ends[0]:.4g} to {ends[1]:.4g}"
        if told is not None:
            raise TrainingDiverged(f"step {step}: {told}; no model was exported; lower optimizer.lr")

    def ended_above(self) -> tuple[float, float] | None:
        """The loss a run began and ended with, where the end is far above the beginning."""
        first, last = self.state.first, self.state.recent[-FIRST:]
        if len(first) < FIRST or not self.factor:
            return None
        began, ended = median(first), median(last)
        above = ended - began > max(self.factor * abs(began), self.margin)
        return (began, ended) if above else None


@torch.no_grad()
def bad_weight(model: nn.Module) -> str | None:
    """The name of a parameter with numbers that half precision cannot hold; None where all are well."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and not float(value.abs().max()) <= LARGEST:
            return name
    return None
