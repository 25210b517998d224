"""Local parallel autoregressive generation, LoPAR (CogView2, section 3.3): generates the codes of an image
again in a few forwards.

Distant codes hardly depend on each other, so they can be sampled in parallel, adjacent ones in sequence. An
*order* defines the sequence: a matrix, tiled over the image, whose value at a place is the turn in which its
code becomes final. In turn t all places with a value of t or more are masked and sampled; those with a larger
value are sampled again later. Places with 0 or less keep their code.

``PAPER`` follows the section's text: a random quarter of each image's codes is kept, the others are sampled
along the diagonals of 6 x 6 windows, in 2 sigma - 1 turns (equation 6). ``RELEASED`` is the order of the
released code: a fixed matrix of six turns, which keeps 13 of 36 codes. ``DIAGONAL`` is equation 6 without
kept codes. ``Confidence`` has no matrix: each turn keeps the codes with the highest probability (Chang et
al., MaskGIT).

:class:`LocalParallel` is the state of a batch: mask ``hidden``, run the model, call ``step`` with its hidden
states, until ``done``.
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

ROWS = 256  # places whose logits are in memory at a time

Head = Callable[[Tensor], Tensor]
Likelihoods = Callable[[int, Tensor], Tensor]
Row = Annotated[tuple[int, ...], Field(min_length=1)]


class Matrix(Config):
    """An order from a matrix of any size: rows of turns; 0 and less: the code is kept."""

    kind: Literal["matrix"] = "matrix"
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_matrix(self) -> Matrix:
        if len({len(row) for row in self.rows}) != 1:
            raise ValueError("the rows of an order must have the same length")
        if self.turns < 1:
            raise ValueError("an order that generates nothing: give some places a turn of 1 or more")
        return self

    @property
    def turns(self) -> int:
        """The number of turns, which is the number of forwards."""
        return max(map(max, self.rows))

    def over(self, grid: tuple[int, int]) -> Tensor:
        """The turn of every place of a grid, int64 (rows * columns,)."""
        matrix = torch.tensor(self.rows)
        down, across = (-(-side // size) for side, size in zip(grid, matrix.shape, strict=True))
        return matrix.repeat(down, across)[: grid[0], : grid[1]].flatten()

    @classmethod
    def diagonal(cls, side: int, keep: int = 0) -> Matrix:
        """Equation 6 with windows of ``side``: 2 side - 1 turns; the first ``keep`` diagonals are kept."""
        return cls(rows=tuple(tuple(i + j + 1 - keep for j in range(side)) for i in range(side)))


class RandomlyKept(Config):
    """An order from a matrix that keeps a random share ``keep`` of each image's codes.

    The kept places are sampled from the image's random stream.
    """

    kind: Literal["randomly_kept"] = "randomly_kept"
    keep: float = Field(0.25, ge=0, lt=1)
    matrix: Matrix = Matrix.diagonal(6)

    @property
    def turns(self) -> int:
        """The number of turns, which is the number of forwards."""
        return self.matrix.turns

    def over(self, grid: tuple[int, int]) -> Tensor:
        """The turn of every place of a grid that is not kept, int64 (rows * columns,)."""
        return self.matrix.over(grid)

    def kept(self, streams: Streams, images: int, places: int) -> Tensor:
        """The kept places, bool (images, places); uses the streams' steps after those of all turns."""
        after = self.turns * places + torch.arange(places, device=streams.keys.device)
        noise = torch.stack([streams.gumbel_of(image, after, 1).squeeze(1) for image in range(images)])
        kept = torch.zeros_like(noise, dtype=torch.bool)
        return kept.scatter_(1, noise.topk(round(self.keep * places), 1).indices, True)


class Confidence(Config):
    """An order by confidence: each turn keeps the codes with the highest probability.

    turns: number of forwards. keep: one code in each ``keep`` x ``keep`` block is kept from the start (0:
    none); with 2 a quarter is kept, as in the paper.
    """

    kind: Literal["confidence"] = "confidence"
    turns: int = Field(6, ge=1)
    keep: int = Field(2, ge=0)

    def over(self, grid: tuple[int, int]) -> Tensor:
        """0 at the places that are kept, else 1: int64 (rows * columns,)."""
        turns = torch.ones(grid, dtype=torch.int64)
        if self.keep:
            turns[:: self.keep, :: self.keep] = 0
        return turns.flatten()

    def left(self, open_: int, turn: int) -> int:
        """How many codes are sampled again after a turn (counted from 1): a cosine schedule."""
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
    """An order of ``ORDERS`` by its name; raises CogViewError for an unknown one."""
    if name not in ORDERS:
        raise CogViewError(f"no order {name!r}; use one of {', '.join(ORDERS)}")
    return ORDERS[name]


class LocalParallel:
    """The state of a batch of images during generation; ``codes`` is (b, n) int64.

    Args:
        order: the turn in which each place is sampled.
        grid: rows and columns of the images.
        codes: (b, n), the codes to start from.
        streams: of the batch, with ``turns * n`` steps, and n more if the order keeps codes at random.
        settings: for all turns, or one for each.
        region: bool (b, n), the places that may change; None: all.
        labels: clusters of the codes, for cluster sampling.
        likelihoods: maps an image and places (m,) to log-likelihoods (m, v), added to the logits.
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
            raise CogViewError(f"the order has {order.turns} turns, but there are settings for {len(turns)}")
        self.settings, self.turn = turns, 0
        self.values = order.over(grid).to(codes.device).expand(codes.shape)
        self.region = torch.ones_like(codes, dtype=torch.bool) if region is None else region
        if isinstance(order, RandomlyKept):
            self.values = self.values.masked_fill(order.kept(streams, *codes.shape), 0)
        self._masked = (self.values > 0) & self.region
        self._counts = self._masked.sum(1).tolist()

    @property
    def done(self) -> bool:
        """Whether all turns are finished."""
        return self.turn == self.order.turns

    @property
    def hidden(self) -> Tensor:
        """bool (b, n): the places that are masked in the next forward and then sampled."""
        return self._masked

    def step(self, states: Tensor, head: Head) -> Tensor:
        """Sample all hidden codes; returns the codes (b, n) after this turn.

        states: (b, n, h), the model's last hidden states at the images' places; head: maps states (m, h) to
        logits (m, v) over the image codes, for at most ``ROWS`` places at a time.
        """
        settings, first = self.settings[self.turn], self.turn * self.codes.shape[1]
        confidence = torch.full(self.codes.shape, torch.inf, device=self.codes.device)
        for image, hidden in enumerate(self.hidden):
            for places in hidden.nonzero().squeeze(1).split(ROWS):
                logits = head(states[image, places]).float()
                if self.likelihoods is not None:
                    logits = logits + self.likelihoods(image, places)
                noise = self.streams.gumbel_of(image, first + places, logits.shape[1])
                sampled = sampling.sample(logits, noise, settings, self.labels)
                self.codes[image, places] = sampled
                if isinstance(self.order, Confidence):
                    log_probs = logits.log_softmax(-1)
                    confidence[image, places] = log_probs.gather(1, sampled[:, None]).squeeze(1)
        self.turn += 1
        self._masked = self._next_mask(confidence)
        return self.codes

    def _next_mask(self, confidence: Tensor) -> Tensor:
        """The places to mask in the next turn; confidence: log-probabilities of the sampled codes."""
        if not isinstance(self.order, Confidence):
            return (self.values > self.turn) & self.region
        mask = torch.zeros_like(self._masked)
        for image, count in enumerate(self._counts):
            left = min(self.order.left(count, self.turn), int(self._masked[image].sum()))
            mask[image, confidence[image].topk(left, largest=False).indices] = True
        return mask
