"""Seeded orders of items, shuffled in each epoch, that can be resumed at any batch.

An epoch's order is a function of (seed, epoch); nothing is sampled while batches are yielded. So a state is
two numbers, and a resumed run yields the same batches as an uninterrupted one.
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
    """The position of a loader: ``batch`` batches of ``epoch`` are used; ``plan`` identifies the loader."""

    version: Literal[1] = 1
    plan: str
    epoch: int = Field(default=0, ge=0)
    batch: int = Field(default=0, ge=0)

    def after(self, batches: int) -> Self:
        """The state after the next batch, in an epoch of ``batches``; the end of an epoch is the start of the
        next."""
        if self.batch + 1 < batches:
            return self.model_copy(update={"batch": self.batch + 1})
        return self.model_copy(update={"epoch": self.epoch + 1, "batch": 0})


def plan_text(*settings: Any) -> str:
    """Settings as text; lists and tuples are equal."""
    return json.dumps(settings)


def plan_hash(*parts: str) -> str:
    """A short hash of everything that determines a loader's order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_state(state: Mapping[str, Any] | None, plan: str) -> LoaderState:
    """The state to resume from (None = the start); raises CogViewError if it is of another loader."""
    if state is None:
        return LoaderState(plan=plan)
    try:
        resumed = LoaderState.model_validate(dict(state))
    except ValidationError as error:
        raise CogViewError(
            f"the data loader's state is damaged: {error.errors()[0]['msg']}; start without it"
        ) from error
    if resumed.plan != plan:
        raise CogViewError(
            "the data loader's state belongs to other data or settings (shards, batch size, seed or "
            "mixture); resume with the original ones"
        )
    return resumed


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """An independent random stream for one purpose in one epoch."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, word])))


def draws(weights: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The items of an epoch, in order: indices into ``weights``, int64.

    An item of weight w occurs w times per epoch: exactly if w is an integer, otherwise floor(w) or ceil(w)
    times so that the sum over epochs 0 … e differs from w * (e + 1) by less than one (systematic sampling: a
    fixed random phase u per item, floor((e + 1) w + u) - floor(e w + u) occurrences).
    """
    phase = generator(seed, 0, "phase").integers(0, STEPS, len(weights)) / STEPS
    counts = np.floor((epoch + 1) * weights + phase) - np.floor(epoch * weights + phase)
    items = np.repeat(np.arange(len(weights)), counts.astype(np.int64))
    order: NDArray[np.int64] = generator(seed, epoch, "order").permutation(items)
    return order


def bucketed(
    lengths: NDArray[np.int64], batch: int, window: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Divide indices 0 … n - 1 into batches of similar length.

    Each run of ``window`` batches is sorted by length and divided into batches, which are shuffled. Each
    index is in exactly one batch; all batches are full except possibly the last.
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
    """Iterates over epochs and batches; subclasses plan epochs and read batches."""

    def __init__(self, state: LoaderState, epochs: int | None) -> None:
        self._state, self.epochs = state, epochs

    @property
    def state(self) -> State:
        """The position of the loader as plain JSON; the batches yielded so far count as used."""
        return self._state.model_dump()

    @abstractmethod
    def plan(self, epoch: int) -> EpochT:
        """Plan an epoch."""

    @abstractmethod
    def count(self, plan: EpochT) -> int:
        """The number of batches of an epoch."""

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
            if batches == 0:  # all weights are below 1 and this epoch is empty
                self._state = self._state.after(0)
