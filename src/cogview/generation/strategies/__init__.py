"""How a batch is decoded: token by token, or several tokens in one forward; the tokens are the same."""

from __future__ import annotations

from cogview.generation.guesses import SMALL
from cogview.generation.loop import Batch, OnStep, Strategy
from cogview.generation.strategies.jacobi import jacobi
from cogview.generation.strategies.sequential import sequential
from cogview.types import Decoding

SMALL_EXACT = {"int8": 2}  # where each query attends by itself, by precision


def auto(batch: Batch, on_step: OnStep) -> None:
    """Several tokens in one forward for small batches, token by token for others.

    Some patterns of attention are drawn token by token.
    """
    most = SMALL_EXACT.get(batch.decoder.precision, 0) if batch.exact else SMALL
    small = len(batch.hidden) <= most and not batch.ordered
    (jacobi if small else sequential)(batch, on_step)


STRATEGIES: dict[Decoding, Strategy] = {"auto": auto, "sequential": sequential, "jacobi": jacobi}
