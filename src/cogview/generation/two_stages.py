"""Constants of CogView2's two super-resolution stages (section 3.3), shared by the runtimes with and without
PyTorch: the released order with its top-k, the released sampling, and the random streams."""

from __future__ import annotations

from collections.abc import Sequence

from cogview.types import MAX_SEED, SamplingParams

TOP_K = (40, 40, 40, 20, 20, 10)  # of the release's six turns
DIRECT = SamplingParams(clusters=100, cluster_temperature=0.89)  # the release's; it needs clusters
STREAMS = {"direct": 1, "iterative": 2}  # distinct from each other and from the first stage
RELEASED_TURNS = (
    (-1, 0, 1, 2, 3, 4),
    (0, -1, 2, -1, -2, 5),
    (1, -2, 3, 4, 5, 6),
    (2, 3, 4, 5, -1, 1),
    (3, -1, -2, 0, -1, 2),
    (4, 5, 6, 1, 3, -2),
)


def top_k_of(turn: int, turns: int, steps: Sequence[int] = TOP_K) -> int:
    """The release's top-k for a turn (counted from 1), scaled to any number of turns."""
    return steps[(turn - 1) * len(steps) // turns]


def stage_stream(seed: int, index: int, stage: str) -> tuple[int, int]:
    """(seed, index) of an image's random stream in a stage."""
    return seed, (index * 4 + STREAMS[stage] + (1 << 60)) % (MAX_SEED + 1)
