"""LoPAR: what is hidden when, what stays, and that every code is drawn from its own logits."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation.local_parallel import (
    DIAGONAL,
    ORDERS,
    PAPER,
    RELEASED,
    Confidence,
    LocalParallel,
    Matrix,
    Order,
    RandomlyKept,
    find_order,
)
from cogview.generation.sampling import Streams
from cogview.generation.two_stages import top_k_of
from cogview.types import SamplingParams

CODES = 50
GREEDY = SamplingParams(top_k=1)


def started(
    order: Order, grid: tuple[int, int], batch: int = 2, region: Tensor | None = None
) -> LocalParallel:
    """Pictures of the code CODES - 1, which the logits below never give."""
    count = grid[0] * grid[1]
    streams = Streams([(5, i) for i in range(batch)], (order.turns + 1) * count, "cpu")
    codes = torch.full((batch, count), CODES - 1)
    return LocalParallel(order, grid, codes, streams, GREEDY, region)


def one_hot(codes: Tensor, strength: Tensor | float = 1.0) -> Tensor:
    """States that are logits: ``codes`` (b, n) by far the likeliest."""
    return torch.nn.functional.one_hot(codes, CODES).float() * 20 * strength


def head(states: Tensor) -> Tensor:
    return states


def test_the_released_order_hides_what_the_release_does() -> None:
    state = started(RELEASED, (60, 60), batch=1)
    hidden = []
    while not state.done:
        hidden.append(int(state.hidden.sum()))
        state.step(one_hot(torch.full((1, 3600), state.turn)), head)
    assert hidden == [2300, 1900, 1500, 1000, 600, 200]
    values = torch.tensor(RELEASED.rows).repeat(10, 10).flatten()
    expected = torch.where(values > 0, values - 1, CODES - 1)  # a place is last drawn in its own turn
    assert torch.equal(state.codes[0], expected)


def test_the_diagonal_order_is_equation_6() -> None:
    assert DIAGONAL.turns == 11
    turns = DIAGONAL.over((12, 12)).view(12, 12)
    row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    assert torch.equal(turns, row % 6 + column % 6 + 1)
    assert (turns[1:] != turns[:-1]).all() and (turns[:, 1:] != turns[:, :-1]).all()


def test_the_papers_order_by_brute_force() -> None:
    """Equation 6, place by place: what is not kept is drawn last in turn row % 6 + col % 6, when it sees
    only kept codes and those of earlier diagonals."""
    rows, columns, pictures = 13, 20, 3
    state = started(PAPER, (rows, columns), batch=pictures)
    kept = PAPER.kept(state.streams, pictures, rows * columns)
    last = torch.full((pictures, rows * columns), -1)
    for turn in range(PAPER.turns):
        for picture in range(pictures):
            for row in range(rows):
                for column in range(columns):
                    place = row * columns + column
                    seen = kept[picture, place] or row % 6 + column % 6 < turn
                    assert bool(state.hidden[picture, place]) == (not seen)
                    last[picture, place] = turn if not seen else last[picture, place]
        state.step(one_hot(torch.full((pictures, rows * columns), turn)), head)
    assert state.done and PAPER.turns == 11
    expected = torch.where(kept, CODES - 1, last)
    assert torch.equal(state.codes, expected)


def test_a_quarter_is_kept_at_random_and_each_picture_has_its_own() -> None:
    places = 3600
    both = Streams([(5, 0), (5, 1)], 12 * places, "cpu")
    alone = Streams([(5, 1)], 12 * places, "cpu")
    kept = PAPER.kept(both, 2, places)
    assert kept.sum(1).tolist() == [900, 900]
    assert torch.equal(kept[1:], PAPER.kept(alone, 1, places))
    assert 150 < int((kept[0] & kept[1]).sum()) < 300  # 225 are expected of independent draws
    turns = PAPER.over((60, 60))
    by_turn = torch.bincount(turns[kept[0]], minlength=12)[1:] / torch.bincount(turns, minlength=12)[1:]
    assert (by_turn - 0.25).abs().max() < 0.12  # no diagonal is preferred: 100 to 600 places each
    assert not RandomlyKept(keep=0.0).kept(both, 2, places).any()


def test_an_order_covers_grids_that_are_no_multiple_of_it() -> None:
    turns = RELEASED.over((7, 9)).view(7, 9)
    assert turns[6].tolist() == [-1, 0, 1, 2, 3, 4, -1, 0, 1]
    assert turns[:, 6].tolist() == [row[0] for row in RELEASED.rows] + [-1]


@pytest.mark.parametrize("name", ORDERS)
def test_only_the_region_changes(name: str) -> None:
    order = ORDERS[name]
    region = torch.rand(2, 48, generator=torch.Generator().manual_seed(1)) < 0.5
    state = started(order, (6, 8), region=region)
    while not state.done:
        assert not (state.hidden & ~region).any()
        state.step(one_hot(torch.zeros(2, 48, dtype=torch.int64)), head)
    assert (state.codes[~region] == CODES - 1).all()
    changed = (state.codes != CODES - 1) & region
    drawn = order.over((6, 8)) > 0
    if isinstance(order, RandomlyKept):
        drawn = drawn & ~order.kept(state.streams, 2, 48)
    assert torch.equal(changed, region & drawn)


def test_confidence_keeps_the_surest_and_ends_with_nothing_hidden() -> None:
    order, grid = Confidence(turns=4), (6, 6)
    state = started(order, grid, batch=1)
    sure = torch.rand(1, 36, generator=torch.Generator().manual_seed(2)) * 0.1 + 0.05
    before = state.hidden
    assert int(before.sum()) == 27  # three quarters
    for turn in range(1, 5):
        state.step(one_hot(torch.zeros(1, 36, dtype=torch.int64), sure[..., None]), head)
        again = state.hidden
        assert int(again.sum()) == order.left(27, turn)
        assert (again & ~before).sum() == 0
        kept = before & ~again
        if again.any():
            assert sure[kept].min() > sure[again].max()
        before = again
    assert state.done and not before.any()


def test_settings_of_each_turn_are_used() -> None:
    """Top-k of one in the first turn alone, of all in the others."""
    order = Matrix(rows=((1, 2),))
    flat = torch.zeros(1, 400, CODES)
    flat[..., 7] = 1e-3
    streams = Streams([(1, 0)], 800, "cpu")
    codes = torch.zeros(1, 400, dtype=torch.int64)
    state = LocalParallel(order, (20, 20), codes, streams, [SamplingParams(top_k=1), SamplingParams()])
    assert (state.step(flat, head) == 7).all()
    second = state.step(flat, head).view(20, 20)
    assert (second[:, ::2] == 7).all()
    assert len(set(second[:, 1::2].flatten().tolist())) > 40  # of 200 draws from 50


def test_the_releases_top_k() -> None:
    assert [top_k_of(turn, 6) for turn in range(1, 7)] == [40, 40, 40, 20, 20, 10]
    assert [top_k_of(turn, 11) for turn in (1, 11)] == [40, 10]
    assert top_k_of(1, 1) == 40


def test_what_is_no_order_is_refused() -> None:
    for rows in (((1, 2), (3,)), ((0, -1),), ()):
        with pytest.raises(ValidationError):
            Matrix(rows=rows)
    with pytest.raises(CogViewError, match="no order 'spiral'"):
        find_order("spiral")
    with pytest.raises(CogViewError, match="6 turns"):
        LocalParallel(RELEASED, (1, 1), torch.zeros(1, 1, dtype=torch.int64), Streams([], 1, "cpu"), [GREEDY])
