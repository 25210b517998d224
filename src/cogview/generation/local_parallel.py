"""Local parallel autoregressive generation, LoPAR (CogView2, section 3.3): an image again in a few forwards.

Codes far from each other do not depend on each other, so many can be drawn at once, and those beside each
other one after the other. An *order* says when: a matrix, repeated over the image, whose value at a place
is the turn in which its code is fixed; in turn t all places with a value of t or more are hidden and drawn,
those with more than t for the last time later. Places with 0 or less keep the code they have.

``PAPER`` is the section's text: a random quarter of each image's codes is kept, the others are drawn by the
diagonals of windows of 6 x 6, in 2 sigma - 1 turns (equation 6). ``RELEASED`` is the release's: a fixed
matrix of six turns, 13 of 36 codes kept. ``DIAGONAL`` is equation 6 with nothing kept. ``Confidence`` has no
matrix: each turn keeps what the model is surest of (Chang et al., MaskGIT).

:class:`LocalParallel` is the state of a batch: hide ``hidden``, run the model, ``step`` with its logits,
until ``done``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.generation import sampling
from cogview.generation.sampling import Streams
from cogview.generation.two_stages import RELEASED_TURNS
from cogview.types import SamplingParams

ROWS = 256  # places whose logits are held at a time

Head = Callable[[Tensor], Tensor]
Likelihoods = Callable[[int, Tensor], Tensor]
Row = Annotated[tuple[int, ...], Field(min_length=1)]


class Matrix(Config):
    """An order by a matrix of any size: rows of turns, 0 and less for codes that are kept."""

    kind: Literal["matrix"] = "matrix"
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_matrix(self) -> Matrix:
        if len({len(row) for row in self.rows}) != 1:
            raise ValueError("the rows of an order must be of one length")
        if self.turns < 1:
            raise ValueError("an order in which nothing is drawn: give some places a turn of 1 or more")
        return self

    @property
    def turns(self) -> int:
        """How many forwards it takes."""
        return max(map(max, self.rows))

    def over(self, grid: tuple[int, int]) -> Tensor:
        """The turn of every place of a grid, int64 (rows * columns,)."""
        matrix = torch.tensor(self.rows)
        down, across = (-(-side // size) for side, size in zip(grid, matrix.shape, strict=True))
        return matrix.repeat(down, across)[: grid[0], : grid[1]].flatten()

    @classmethod
    def diagonal(cls, side: int, keep: int = 0) -> Matrix:
        """Equation 6 with windows of ``side``: 2 side - 1 turns; the first ``keep`` diagonals stay."""
        return cls(rows=tuple(tuple(i + j + 1 - keep for j in range(side)) for i in range(side)))


class RandomlyKept(Config):
    """An order by a matrix for what is drawn; a share ``keep`` of each image's codes, at random, stays.

    The draw is the image's own, from its random stream.
    """

    kind: Literal["randomly_kept"] = "randomly_kept"
    keep: float = Field(0.25, ge=0, lt=1)
    matrix: Matrix = Matrix.diagonal(6)

    @property
    def turns(self) -> int:
        """How many forwards it takes."""
        return self.matrix.turns

    def over(self, grid: tuple[int, int]) -> Tensor:
        """The turn of every place of a grid that is not kept, int64 (rows * columns,)."""
        return self.matrix.over(grid)

    def kept(self, streams: Streams, images: int, places: int) -> Tensor:
        """bool (images, places): what stays. The streams' steps after those of all turns decide it."""
        after = self.turns * places + torch.arange(places, device=streams.keys.device)
        noise = torch.stack([streams.gumbel_of(image, after, 1).squeeze(1) for image in range(images)])
        kept = torch.zeros_like(noise, dtype=torch.bool)
        return kept.scatter_(1, noise.topk(round(self.keep * places), 1).indices, True)


class Confidence(Config):
    """An order by confidence: after each turn the codes that were likeliest stay.

    turns: forwards. keep: one code in each ``keep`` x ``keep`` is not drawn at all (0: all are drawn); with 2
    a quarter stays, as the paper says.
    """

    kind: Literal["confidence"] = "confidence"
    turns: int = Field(6, ge=1)
    keep: int = Field(2, ge=0)

    def over(self, grid: tuple[int, int]) -> Tensor:
        """0 at the places that are kept, else 1: int64 (rows * columns,)."""
        drawn = torch.ones(grid, dtype=torch.int64)
        if self.keep:
            drawn[:: self.keep, :: self.keep] = 0
        return drawn.flatten()

    def left(self, open_: int, turn: int) -> int:
        """How many of the drawn codes are drawn again after a turn, counted from 1: a cosine."""
        return math.floor(open_ * math.cos(math.pi / 2 * turn / self.turns)) if turn < self.turns else 0


Order = Matrix | RandomlyKept | Confidence

RELEASED = Matrix(rows=RELEASED_TURNS)
DIAGONAL = Matrix.diagonal(6)
PAPER = RandomlyKept()
ORDERS: dict[str, Order] = {
    "paper": PAPER,
    "released": RELEASED,
    "diagonal": DIAGONAL,
    "confidence": Confidence(),
}


def find_order(name: str) -> Order:
    """One of ``ORDERS``; CogViewError for another name."""
    if name not in ORDERS:
        raise CogViewError(f"no order {name!r}; there are {', '.join(ORDERS)}")
    return ORDERS[name]


class LocalParallel:
    """A batch of images on its way; ``codes`` is (b, n) int64.

    Args:
        order: when which place is drawn.
        grid: rows and columns of the images.
        codes: (b, n), what is kept, and what is generated again.
        streams: of the batch, with ``turns * n`` steps, n more where the order keeps codes at random.
        settings: of all turns, or one for each.
        region: bool (b, n), outside of which nothing changes; None: everything may.
        labels: clusters of the codes, where the settings ask for them.
        likelihoods: what else is known of the codes of image i at places (m,), as log-likelihoods (m, v).
    """

    def __init__(
        self,
        order: Order,
        grid: tuple[int, int],
        codes: Tensor,
        streams: Streams,
        settings: SamplingParams | Sequence[SamplingParams],
        region: Tensor | None = None,
        labels: Tensor | None = None,
        likelihoods: Likelihoods | None = None,
    ) -> None:
        self.order, self.codes, self.streams, self.labels = order, codes.clone(), streams, labels
        self.likelihoods = likelihoods
        turns = [settings] * order.turns if isinstance(settings, SamplingParams) else list(settings)
        if len(turns) != order.turns:
            raise CogViewError(f"the order has {order.turns} turns, there are settings for {len(turns)}")
        self.settings, self.turn = turns, 0
        self.values = order.over(grid).to(codes.device).expand(codes.shape)
        self.region = torch.ones_like(codes, dtype=torch.bool) if region is None else region
        if isinstance(order, RandomlyKept):
            self.values = self.values.masked_fill(order.kept(streams, *codes.shape), 0)
        self._open = (self.values > 0) & self.region
        self._drawn = self._open.sum(1).tolist()

    @property
    def done(self) -> bool:
        """Whether all turns are over."""
        return self.turn == self.order.turns

    @property
    def hidden(self) -> Tensor:
        """bool (b, n): what the model must not see in the next forward, and what is drawn then."""
        return self._open

    def step(self, states: Tensor, head: Head) -> Tensor:
        """Draw all hidden codes; returns the images after this turn (b, n).

        states: (b, n, h), the model's last states at the images' places; head: gives logits (m, v) over the
        image codes for states (m, h). ROWS places are multiplied at a time.
        """
        settings, first = self.settings[self.turn], self.turn * self.codes.shape[1]
        sure = torch.full(self.codes.shape, torch.inf, device=self.codes.device)
        for image, hidden in enumerate(self.hidden):
            for places in hidden.nonzero().squeeze(1).split(ROWS):
                logits = head(states[image, places]).float()
                if self.likelihoods is not None:
                    logits = logits + self.likelihoods(image, places)
                noise = self.streams.gumbel_of(image, first + places, logits.shape[1])
                drawn = sampling.sample(logits, noise, settings, self.labels)
                self.codes[image, places] = drawn
                if isinstance(self.order, Confidence):
                    sure[image, places] = logits.log_softmax(-1).gather(1, drawn[:, None]).squeeze(1)
        self.turn += 1
        self._open = self._again(sure)
        return self.codes

    def _again(self, sure: Tensor) -> Tensor:
        """What is hidden in the next turn, from how likely the drawn codes were."""
        if not isinstance(self.order, Confidence):
            return (self.values > self.turn) & self.region
        again = torch.zeros_like(self._open)
        for image, count in enumerate(self._drawn):
            left = min(self.order.left(count, self.turn), int(self._open[image].sum()))
            again[image, sure[image].topk(left, largest=False).indices] = True
        return again
