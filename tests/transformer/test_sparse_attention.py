"""The fast forms of three-region attention against its dense mask and bias (a float32), in float64."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from cogview.transformer.attention import Causal, Recent, ThreeRegion, sample_pivots, tiles
from cogview.transformer.attention.flex import BLOCK, FlexKernel
from cogview.transformer.attention.pattern import Kernel, View, attend_fused, attend_written
from cogview.transformer.attention.tiles import Layout, TiledKernel

HEADS, WIDTH = 4, 3


Triple = tuple[Tensor, Tensor, Tensor]


def inputs(batch: int, queries: int, keys: int, scale: float = 1.0, seed: int = 0) -> Triple:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        scale * torch.randn(batch, HEADS, n, WIDTH, dtype=torch.float64, generator=generator)
        for n in (queries, keys, keys)
    )
    return query, key, value


def each(function: Callable[[Tensor], Tensor], triple: Triple) -> Triple:
    query, key, value = map(function, triple)
    return query, key, value


def pattern(length: int, window: int, times: int, count: int, seed: int = 0, batch: int = 2) -> ThreeRegion:
    """Rows with different texts, so with different numbers of pivots before each block."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.rand(batch, length, generator=generator) < 0.1
    count = max(count, int(text.sum(-1).max()))
    return ThreeRegion(window, times, sample_pivots(text, ~text, count, generator=generator)[0])


def layout(given: ThreeRegion, length: int) -> Layout:
    return Layout(given.window, given.times, given.pivots, length, given.ratio(length))


def with_gradients(view: View, tensors: Triple) -> list[Tensor]:
    leaves = each(lambda x: x.detach().requires_grad_(), tensors)
    out = attend_fused(*leaves, view)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), leaves)]


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(9, 60),
    window=st.integers(1, 12),
    times=st.integers(1, 3),
    scale=st.sampled_from([0.1, 1.0, 40.0]),
    budget=st.sampled_from([1, 300, 1 << 17]),
    rows=st.sampled_from([3, 128]),
    seed=st.integers(0, 999),
)
def test_tiles_equal_the_dense_form(
    length: int, window: int, times: int, scale: float, budget: int, rows: int, seed: int
) -> None:
    """Output and all gradients, at any length and size of tile, with scores small and beyond exp's range."""
    given_pattern, tensors = pattern(length, window, times, 4, seed), inputs(2, length, length, scale, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "SCORES", budget)
        patch.setattr(tiles, "ROWS", rows)
        fast = with_gradients(View(kernel=TiledKernel(layout(given_pattern, length))), tensors)
    for got, expected in zip(
        fast, with_gradients(given_pattern.dense_view(length, length), tensors), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_tiles_take_tensors_as_the_model_has_them() -> None:
    """Query, key and value as parts of one tensor, the gradient of a sum, and float32."""
    given_pattern = pattern(50, 5, 2, 8)
    kernel = TiledKernel(layout(given_pattern, 50))
    whole = torch.randn(2, 50, 3, HEADS, WIDTH, generator=torch.Generator().manual_seed(1))
    found = []
    for view in (View(kernel=kernel), given_pattern.dense_view(50, 50)):
        leaf = whole.clone().requires_grad_()
        query, key, value = (x.transpose(1, 2) for x in leaf.unbind(2))
        out = attend_fused(query, key, value, view)
        found.append((out, *torch.autograd.grad(out.sum(), leaf)))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    given_pattern, tensors = pattern(40, 4, 2, 8), each(Tensor.half, inputs(2, 40, 40))
    out = TiledKernel(layout(given_pattern, 40))(*tensors)
    assert out.dtype == torch.float16
    exact = attend_written(*each(Tensor.double, tensors), given_pattern.dense_view(40, 40))
    torch.testing.assert_close(out.double(), exact, atol=1e-3, rtol=1e-3)


def test_dropout_drops_the_share_it_should_and_its_gradient_is_that_of_its_output() -> None:
    """By finite differences with the same draw; and the mean over draws is the output without dropout."""
    given_pattern, tensors = pattern(30, 3, 2, 6, batch=1), inputs(1, 30, 30)
    kernel: Kernel = TiledKernel(layout(given_pattern, 30))

    def drawn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(5)
        return kernel(query, key, value, 0.4)

    leaves = each(Tensor.requires_grad_, tensors)
    assert torch.autograd.gradcheck(drawn, leaves, fast_mode=True)
    with torch.no_grad():
        mean = torch.stack([kernel(*leaves, 0.4) for _ in range(400)]).mean(0)
        exact = kernel(*leaves, 0.0)
    assert not torch.allclose(drawn(*leaves), exact)
    assert (mean - exact).abs().mean() < 0.05 * exact.abs().mean() + 0.05


def test_long_sequences_take_the_tiles_and_short_ones_do_not() -> None:
    for length, tiled in ((24, False), (100, False), (600, True)):
        view = pattern(length, 8, 3, 64 if length > 64 else 12).view(length, length)
        assert isinstance(view.kernel, TiledKernel) == tiled
    assert pattern(24, 8, 3, 12).view(24, 24).causal  # the window holds all of it


# ---------------------------------------------------------------------------------------------- FlexAttention


@pytest.mark.parametrize(("length", "window", "times", "count"), [(300, 50, 2, 77)])
def test_flex_attention_equals_the_dense_form(length: int, window: int, times: int, count: int) -> None:
    """Not compiled, which computes the same function on a CPU."""
    given_pattern = pattern(length, window, times, count)
    kernel = FlexKernel(window, times, given_pattern.pivots, length, given_pattern.ratio(length))
    tensors = inputs(2, length, length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = kernel.attend(flex_attention, *tensors)
    torch.testing.assert_close(out, attend_fused(*tensors, given_pattern.dense_view(length, length)))


@pytest.mark.parametrize(
    ("length", "window", "times", "count"), [(700, 64, 2, 256), (640, 128, 2, 200), (513, 100, 1, 70)]
)
def test_the_block_mask_is_that_of_the_mask_function(
    length: int, window: int, times: int, count: int
) -> None:
    """No block that is seen is left out, none that is hidden in part is called full."""
    given_pattern = pattern(length, window, times, count)
    kernel = FlexKernel(window, times, given_pattern.pivots, length, 1)
    whole = count_of(given_pattern) + length
    exact = create_block_mask(kernel.sees, 2, None, length, whole, device="cpu", BLOCK_SIZE=BLOCK)
    mine = kernel.block_mask
    for name in ("kv", "full_kv"):
        listed = [listed_blocks(mask, name) for mask in (mine, exact)]
        assert listed[0] >= listed[1] if name == "kv" else listed[0] <= listed[1]
    seen = [listed_blocks(mask, "kv") | listed_blocks(mask, "full_kv") for mask in (mine, exact)]
    assert seen[0] == seen[1]


def count_of(given_pattern: ThreeRegion) -> int:
    return given_pattern.pivots.shape[1]


def listed_blocks(mask: object, name: str) -> set[tuple[int, int, int]]:
    numbers, indices = (getattr(mask, f"{name}_{what}") for what in ("num_blocks", "indices"))
    batch, _, rows = numbers.shape
    return {
        (b, row, int(column))
        for b in range(batch)
        for row in range(rows)
        for column in indices[b, 0, row, : int(numbers[b, 0, row])]
    }


# ---------------------------------------------------------------------------------------------- for drawing

PIVOTS = torch.tensor([[0, 2, 3], [1, 4, 5]])


@pytest.mark.parametrize("queries", [1, 2, 4])
def test_recent_keys_and_pivots_by_loops(queries: int) -> None:
    """Ten keys, of which the last four are the window and three before it pivots, one of them not seen."""
    query, key, value = inputs(2, queries, 10)
    seen = torch.tensor([[True, True, False], [True, True, True]])
    form = Recent(4, PIVOTS, seen)
    expected = torch.zeros_like(query)
    for b in range(2):
        far = [int(p) for p, there in zip(PIVOTS[b], seen[b], strict=True) if there]
        for q in range(queries):
            keys = far + list(range(6, 10 - queries + q + 1))
            weights = (key[b][:, keys] @ query[b, :, q, :, None] / math.sqrt(WIDTH)).softmax(1)
            expected[b, :, q] = (weights * value[b][:, keys]).sum(1)
    for view in (form.view(queries, 10), form.dense_view(queries, 10)):
        torch.testing.assert_close(attend_fused(query, key, value, view), expected)


def test_recent_is_causal_while_the_window_holds_all() -> None:
    query, key, value = inputs(2, 1, 4)
    view = Recent(4, torch.empty(2, 0, dtype=torch.int64)).view(1, 4)
    torch.testing.assert_close(
        attend_fused(query, key, value, view), attend_fused(query, key, value, Causal().view(1, 4))
    )


def test_recent_takes_no_more_queries_than_its_window_has_keys() -> None:
    with pytest.raises(AssertionError, match="5 queries"):
        Recent(4, PIVOTS).dense_mask(5, 10)
