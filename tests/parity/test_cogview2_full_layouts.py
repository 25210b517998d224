"""The release's full layouts (20 x 20 and 60 x 60 codes) by the definition of its operators, place by place.

What a place sees is worked out here from the published rules alone: windows of 9 rows and 5 columns, 5 x 5 on
the small picture at a third of the place, the text behind its padding. Weights are random.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cogview.generation.local_parallel import RELEASED, LocalParallel
from cogview.generation.sampling import Streams
from cogview.sequences.super_resolution import DirectFormat, Inputs, IterativeFormat
from cogview.transformer.attention import View
from cogview.types import SamplingParams

SMALL, LARGE = 20, 60
WIDTH = 8
PLACES = [0, 1, 59, 60, 61, 1799, 1830, 3539, 3540, 3599, 487, 2222]


def attended(made: Inputs, length: int) -> tuple[Tensor, list[Tensor]]:
    """The pattern's own kernel over random queries, keys and values (2, 2, length, WIDTH)."""
    torch.manual_seed(length)
    query, key, value = (torch.randn(2, 2, length, WIDTH) for _ in range(3))
    view: View = made.visibility.view(length, length, torch.device("cpu"))
    assert view.kernel is not None
    return view.kernel(query, key, value, 0.0), [query, key, value]


def by_hand(place: int, seen: list[int], row: int, given: list[Tensor]) -> Tensor:
    """(heads, WIDTH): softmax(q k / sqrt(width)) v over exactly the places that are seen."""
    query, key, value = (x[row] for x in given)
    scores = (query[:, place, None] * key[:, seen]).sum(-1) / WIDTH**0.5
    return (scores.softmax(-1)[..., None] * value[:, seen]).sum(1)


def window(row: int, column: int, side: int, down: int, across: int) -> list[int]:
    """Places of a window inside a picture, in reading order."""
    return [
        y * side + x
        for y in range(row - down // 2, row + down // 2 + 1)
        for x in range(column - across // 2, column + across // 2 + 1)
        if 0 <= y < side and 0 <= x < side
    ]


@pytest.mark.parametrize("lengths", [(95, 0), (7, 1)])
def test_direct_super_resolution_sees_what_the_release_sees(lengths: tuple[int, int]) -> None:
    form = DirectFormat.cogview2()
    small = np.random.default_rng(0).integers(0, 20_000, (2, SMALL**2))
    made = form.inputs([list(range(n)) for n in lengths], small)
    assert made.ids.shape == (2, 4096) and form.decoder_from == 496
    out, given = attended(made, 4096)
    for row, words in enumerate(lengths):
        pads = 96 - words
        text = list(range(pads, 96))
        assert (made.ids[row, :pads] == 0).all() and (made.positions[row, :pads] == 0).all()
        assert made.positions[row, pads:96].tolist() == list(range(words))
        assert made.positions[row, 96:496].tolist() == list(range(513, 913))
        assert (made.ids[row, 496:] == 150_000).all()
        assert made.positions[row, 496:].tolist() == list(range(1024, 4624))
        for place in [95] if words else []:
            torch.testing.assert_close(out[row, :, place], by_hand(place, text, row, given))
        for place in (96, 300, 495):
            seen = text + list(range(96, 496))
            torch.testing.assert_close(out[row, :, place], by_hand(place, seen, row, given))
        for number in PLACES:
            y, x = divmod(number, LARGE)
            seen = [96 + i for i in window(y // 3, x // 3, SMALL, 5, 5)]
            seen += [496 + i for i in window(y, x, LARGE, 9, 5)]
            torch.testing.assert_close(out[row, :, 496 + number], by_hand(496 + number, seen, row, given))


def test_iterative_super_resolution_sees_what_the_release_sees() -> None:
    form = IterativeFormat.cogview2()
    large = np.random.default_rng(0).integers(0, 20_000, (2, LARGE**2))
    hidden = torch.zeros(2, LARGE**2, dtype=torch.bool)
    hidden[:, ::7] = True
    made = form.inputs([list(range(40)), [5, 6, 7]], large, hidden)
    assert made.ids.shape == (2, 3616)
    assert made.ids[0, :16].tolist() == list(range(20_000, 20_016))  # the first 16 pieces
    assert made.ids[1, :16].tolist() == [0] * 13 + [20_005, 20_006, 20_007]
    assert (made.ids[:, 16:][hidden] == 150_000).all()
    assert made.positions[0, 16:].tolist() == list(range(1024, 4624))
    out, given = attended(made, 3616)
    for row, pads in enumerate((0, 13)):
        text = list(range(pads, 16))
        torch.testing.assert_close(out[row, :, 15], by_hand(15, text, row, given))
        for number in PLACES:
            seen = text + [16 + i for i in window(*divmod(number, LARGE), LARGE, 9, 5)]
            torch.testing.assert_close(out[row, :, 16 + number], by_hand(16 + number, seen, row, given))


@pytest.mark.parametrize("masked", ["all", "rectangle", "nothing"])
def test_the_turns_redraw_what_the_release_redraws(masked: str) -> None:
    """2300, 1900, 1500, 1000, 600 and 200 of 3600 codes; under an input mask those of them inside it."""
    region = torch.zeros(LARGE, LARGE, dtype=torch.bool)
    if masked == "all":
        region[:] = True
    elif masked == "rectangle":
        region[7:31, 2:53] = True
    start = torch.arange(LARGE**2)[None] % 50
    state = LocalParallel(
        RELEASED,
        (LARGE, LARGE),
        start,
        Streams([(0, 0)], 6 * LARGE**2, "cpu"),
        SamplingParams(),
        region.view(1, -1),
    )
    pattern = np.array(RELEASED.rows)
    counts = []
    for turn in range(1, 7):
        due = np.array([[pattern[y % 6, x % 6] >= turn for x in range(LARGE)] for y in range(LARGE)])
        expected = torch.from_numpy(due) & region
        assert torch.equal(state.hidden.view(LARGE, LARGE), expected)
        counts.append(int(expected.sum()))
        state.step(torch.zeros(1, LARGE**2, 4), lambda states: torch.zeros(len(states), 50))
    assert state.done
    if masked == "all":
        assert counts == [2300, 1900, 1500, 1000, 600, 200]
    kept = ~region.view(-1) | torch.from_numpy(np.tile(pattern <= 0, (10, 10)).ravel())
    assert torch.equal(state.codes[0, kept], start[0, kept])
