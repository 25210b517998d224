"""Which item when: seeded, epoch-shuffled orders that can be left and resumed at any batch.

An epoch's order is a function of (seed, epoch) alone; nothing is drawn while batches are handed out. So a
state is two numbers, and a run that resumes from it draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from cogview.config import Config
from cogview.errors import CogViewError

STEPS = 1 << 20
State = dict[str, Any]
EpochT = TypeVar("EpochT")
BatchT = TypeVar("BatchT")


class LoaderState(Config):
    """Where a loader stands: ``batch`` batches of ``epoch`` are used. ``plan`` guards against a mix-up."""

    version: Literal[1] = 1
    plan: str
    epoch: int = Field(default=0, ge=0)
    batch: int = Field(default=0, ge=0)

    def after(self, batches: int) -> Self:
        """The state one batch on, in an epoch of ``batches``: an epoch's end is the next one's beginning."""
        if self.batch + 1 < batches:
            return self.model_copy(update={"batch": self.batch + 1})
        return self.model_copy(update={"epoch": self.epoch + 1, "batch": 0})


def plan_text(*settings: Any) -> str:
    """Settings as one text; lists and tuples read the same."""
    return json.dumps(settings)


def plan_hash(*parts: str) -> str:
    """A short hash of all that decides a loader's order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_state(state: Mapping[str, Any] | None, plan: str) -> LoaderState:
    """The state to go on from (None = the beginning); raises CogViewError where it is from another loader."""
    if state is None:
        return LoaderState(plan=plan)
    try:
        found = LoaderState.model_validate(dict(state))
    except ValidationError as error:
        raise CogViewError(
            f"the data loader's state is damaged: {error.errors()[0]['msg']}; start without it"
        ) from error
    if found.plan != plan:
        raise CogViewError(
            "the data loader's state belongs to other data or settings (shards, batch size, seed or "
            "mixture); resume with those it was made with"
        )
    return found


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """An independent random stream for one purpose in one epoch."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, word])))


def draws(weights: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Which items an epoch draws, in order: positions into ``weights``, int64.

    An item of weight w is drawn w times an epoch: exactly where w is whole, and else floor(w) or ceil(w)
    times so that the sum over epochs 0 … e never strays from w * (e + 1) by one or more (systematic
    sampling: a fixed random phase u per item, drawn floor((e + 1) w + u) - floor(e w + u) times).
    """
    phase = generator(seed, 0, "phase").integers(0, STEPS, len(weights)) / STEPS
    counts = np.floor((epoch + 1) * weights + phase) - np.floor(epoch * weights + phase)
    chosen = np.repeat(np.arange(len(weights)), counts.astype(np.int64))
    order: NDArray[np.int64] = generator(seed, epoch, "order").permutation(chosen)
    return order


def bucketed(
    lengths: NDArray[np.int64], batch: int, window: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Cut positions 0 … n - 1 into batches of like length.

    Every ``window`` batches' worth of positions is sorted by length, cut into batches, and those are
    shuffled. Each position is in exactly one batch; all batches are full but at most the last, which holds
    the rest.
    """
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(lengths), batch * window):
        chunk = np.arange(start, min(start + batch * window, len(lengths)))
        full = len(chunk) // batch * batch
        rest = chunk[full:]
        ordered = chunk[:full][np.argsort(lengths[chunk[:full]], kind="stable")].reshape(-1, batch)
        batches += [ordered[row] for row in rng.permutation(len(ordered))]
        if len(rest):
            batches.append(rest)
    return batches


class EpochLoader(ABC, Generic[EpochT, BatchT]):
    """The walk through epochs and batches; subclasses say what an epoch is and read its batches."""

    def __init__(self, state: LoaderState, epochs: int | None) -> None:
        self._state, self.epochs = state, epochs

    @property
    def state(self) -> State:
        """Where the loader stands, as plain JSON: the batches handed out so far count as used."""
        return self._state.model_dump()

    @abstractmethod
    def plan(self, epoch: int) -> EpochT:
        """Work an epoch out."""

    @abstractmethod
    def count(self, plan: EpochT) -> int:
        """How many batches an epoch has."""

    @abstractmethod
    def read(self, plan: EpochT, batch: int) -> BatchT:
        """Read one batch of an epoch."""

    def __iter__(self) -> Iterator[tuple[BatchT, State]]:
        while self.epochs is None or self._state.epoch < self.epochs:
            epoch = self._state.epoch
            plan = self.plan(epoch)
            batches = self.count(plan)
            for number in range(self._state.batch, batches):
                self._state = self._state.after(batches)
                yield self.read(plan, number), self.state
            if batches == 0:  # every weight is below 1 and this epoch draws nothing
                self._state = self._state.after(0)
