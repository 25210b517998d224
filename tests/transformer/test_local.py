"""Local attention: its tiles and FlexAttention against dense masks, the masks against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from cogview.transformer.attention import CrossResolution, Local, Window, Windowed
from cogview.transformer.attention.halo import attend
from cogview.transformer.attention.local_flex import FlexKernel, tile_order
from cogview.transformer.attention.window import Keys, Layout, tiles
from tests.transformer.tiny import tiny_model, tokens

WINDOW = Window(3, 5)


def sees_by_hand(window: Window, y: int, x: int, row: int, column: int) -> bool:
    dy, dx = row - y, column - x
    if window.causal and (dy > 0 or (dy == 0 and dx > 0)):
        return False
    top, left = -(window.rows // 2), -(window.columns // 2)
    return top <= dy < top + window.rows and left <= dx < left + window.columns


@pytest.mark.parametrize("window", [Window(3, 5), Window(5, 3, causal=True), Window(2, 4), Window(1, 1)])
def test_a_local_mask_is_that_of_loops(window: Window) -> None:
    rows, columns, text = 4, 5, 3
    pattern = Local((rows, columns), window, text, torch.tensor([1, 0]))
    mask = pattern.dense_mask(23, 23)
    for b, padding in enumerate((1, 0)):
        for query in range(23):
            for key in range(23):
                q, k = query - text, key - text
                expected = key >= padding if key < text else False
                if q >= 0 and k >= 0:
                    expected = sees_by_hand(window, q // columns, q % columns, k // columns, k % columns)
                assert mask[b, 0, query, key] == expected


def test_a_cross_resolution_mask_is_that_of_loops() -> None:
    text, small, grid, across, window = 3, (2, 3), (4, 9), Window(1, 3), Window(3, 3)
    first, second = text, text + 6
    pattern = CrossResolution(text, small, grid, window, across, torch.tensor([0, 2]))
    mask = pattern.dense_mask(45, 45)
    for b, padding in enumerate((0, 2)):
        for query in range(45):
            for key in range(45):
                if query < second:
                    expected = key < second and (query >= text or key < text)
                    expected &= query < padding or key >= padding
                else:
                    y, x = divmod(query - second, 9)
                    if key >= second:
                        expected = sees_by_hand(window, y, x, *divmod(key - second, 9))
                    else:
                        expected = key >= first and sees_by_hand(
                            across, y // 2, x // 3, *divmod(key - first, 3)
                        )
                assert mask[b, 0, query, key] == expected, (b, query, key)


PATTERNS: dict[str, Windowed] = {
    "local": Local((13, 7), Window(9, 5)),
    "one wide tile": Local((2, 31), Window(5, 9)),
    "causal with text": Local((9, 8), Window(5, 5, causal=True), 4, torch.tensor([0, 3])),
    "no text in its places": Local((6, 6), WINDOW, 3, torch.tensor([3, 1])),
    "even": Local((7, 7), Window(4, 2)),
    "larger than the picture": Local((6, 5), Window(21, 21), 2),
    "two resolutions": CrossResolution(4, (3, 5), (9, 15), Window(9, 5), Window(5, 5), torch.tensor([1, 4])),
    "twice": CrossResolution(0, (5, 4), (10, 8), Window(3, 3), Window(3, 1)),
}


def inputs(length: int, requires_grad: bool = False, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(2, 3, length, width, generator=generator, dtype=torch.float64).requires_grad_(
            requires_grad
        )
        for _ in range(3)
    ]


def by_definition(pattern: Windowed, triple: list[Tensor]) -> Tensor:
    mask = pattern.dense_mask(pattern.length, pattern.length)
    return F.scaled_dot_product_attention(triple[0], triple[1], triple[2], mask)


@pytest.mark.parametrize("name", PATTERNS)
def test_tiles_give_values_and_gradients_of_the_dense_mask(name: str) -> None:
    pattern = PATTERNS[name]
    triple = inputs(pattern.length, requires_grad=True)
    kernel = pattern.view(pattern.length, pattern.length).kernel
    assert kernel is not None
    expected, found = by_definition(pattern, triple), kernel(triple[0], triple[1], triple[2], 0.0)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), triple),
        torch.autograd.grad((expected * weights).sum(), triple),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["no text in its places", "twice"])
def test_flex_attention_gives_the_same(name: str) -> None:
    pattern = PATTERNS[name]
    triple = inputs(pattern.length)
    kernel = FlexKernel(pattern.layout, pattern.head_mask, pattern.hidden)
    torch.testing.assert_close(kernel.attend(flex_attention, *triple), by_definition(pattern, triple))


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.booleans(),
)
def test_tiles_hold_every_pair_once(grid: tuple[int, int], half: tuple[int, int], causal: bool) -> None:
    window = Window(2 * half[0] - 1, 2 * half[1] - 1, causal)
    layout = Layout(grid, (Keys(0, grid, window),))
    plan = tiles(layout, torch.device("cpu"))
    count = grid[0] * grid[1]
    pairs = torch.zeros(count, count, dtype=torch.int64)
    for queries, real, keys, bias in zip(plan.queries, plan.real[..., 0], plan.keys, plan.bias, strict=True):
        for query, row in zip(queries[real], bias[real], strict=True):
            pairs[query].index_add_(0, keys[row == 0], torch.ones_like(keys[row == 0]))
    everything = torch.arange(count)
    assert torch.equal(pairs, layout.sees(everything[:, None], everything).long())


def test_large_scores_stay_finite_and_half_precision_is_close() -> None:
    pattern = Local((9, 9), WINDOW)
    query, key, value = (x.float() for x in inputs(81))
    large = attend(query * 300, key * 300, value, pattern.layout)
    torch.testing.assert_close(large, by_definition(pattern, [query * 300, key * 300, value]))
    half = attend(query.half(), key.half(), value.half(), pattern.layout)
    assert half.dtype == torch.float16
    expected = by_definition(pattern, [query, key, value])
    torch.testing.assert_close(half.float(), expected, atol=5e-3, rtol=5e-3)


def test_dropout_is_the_same_forward_and_backward() -> None:
    """In expectation nothing changes, and the gradient is that of the function that was computed."""
    layout = Layout((4, 4), (Keys(0, (4, 4), WINDOW),))

    def drawn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(query, key, value, layout, dropout=0.3)

    triple = [x[:1, :1].detach().requires_grad_() for x in inputs(16, width=2)]
    assert torch.autograd.gradcheck(drawn, triple)
    query, key, _ = (x.detach() for x in triple)
    ones = torch.ones_like(query)
    mean = torch.stack([attend(query, key, ones, layout, dropout=0.3) for _ in range(30)]).mean()
    assert abs(mean.item() - 1) < 0.1


def test_scores_take_another_scale() -> None:
    pattern = Local((5, 5), WINDOW)
    query, key, value = inputs(25)
    mask = pattern.dense_mask(25, 25)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
    torch.testing.assert_close(attend(query, key, value, pattern.layout, scale=1.0), expected)


def test_a_transformer_takes_tiles_where_it_can_and_the_mask_where_it_must() -> None:
    pattern = Local((4, 4), WINDOW, 3, torch.tensor([2, 0]))
    ids, positions = tokens(length=19)
    fast, written = tiny_model()(ids, positions, pattern), tiny_model(numerics="written")
    torch.testing.assert_close(fast, written(ids, positions, pattern), atol=1e-5, rtol=1e-5)


def test_tile_order_is_a_permutation_and_blocks_are_rectangles() -> None:
    order = tile_order((16, 32))
    assert torch.equal(order.sort().values, torch.arange(512))
    block = order[128:256]
    assert set((block // 32).tolist()) == set(range(8))
    assert set((block % 32).tolist()) == set(range(16, 32))


@pytest.mark.parametrize("sides", [(0, 3, False), (3, 4, True)])
def test_impossible_windows_are_refused(sides: tuple[int, int, bool]) -> None:
    with pytest.raises(ValueError, match="no window of"):
        Window(*sides)


def test_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number of times"):
        CrossResolution(0, (2, 2), (5, 4), WINDOW, WINDOW)


def test_a_window_counts_its_places() -> None:
    assert [Window(9, 5).size, Window(9, 5, True).size] == [45, 23]
    assert math.prod((5, 5)) == Window(5, 5).size
