"""Attention patterns and kernels against attention written with loops, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogview.errors import CogViewError
from cogview.transformer.attention import (
    Causal,
    CrossResolution,
    Dense,
    Local,
    Prefix,
    ThreeRegion,
    View,
    Visibility,
    Window,
    sample_pivots,
    short,
)
from cogview.transformer.attention.pattern import attend_fused, attend_released, attend_written
from cogview.transformer.processor import multiplies_bf16

BATCH, HEADS, WIDTH = 2, 2, 3
Triple = tuple[Tensor, Tensor, Tensor]
Sees = Callable[[int, int, int], bool]  # (batch row, query, key), both counted from the sequence's start


def inputs(queries: int, keys: int, seed: int = 0) -> Triple:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(BATCH, HEADS, n, WIDTH, dtype=torch.float64, generator=generator)
        for n in (queries, keys, keys)
    )
    return query, key, value


def each(function: Callable[[Tensor], Tensor], triple: Triple) -> Triple:
    query, key, value = map(function, triple)
    return query, key, value


def by_loops(
    query: Tensor, key: Tensor, value: Tensor, sees: Sees, bias: Callable[[int, int], float]
) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v over what each query sees, one number at a time."""
    out = torch.zeros_like(query)
    offset = key.shape[2] - query.shape[2]
    for b in range(BATCH):
        for h in range(HEADS):
            for q in range(query.shape[2]):
                seen = [k for k in range(key.shape[2]) if sees(b, q + offset, k)]
                scores = [
                    sum(x * y for x, y in zip(query[b, h, q].tolist(), key[b, h, k].tolist(), strict=True))
                    / math.sqrt(WIDTH)
                    + bias(q + offset, k)
                    for k in seen
                ]
                weights = [math.exp(s - max(scores)) for s in scores]
                for k, weight in zip(seen, weights, strict=True):
                    out[b, h, q] += value[b, h, k] * weight / sum(weights)
    return out


PREFIXES = torch.tensor([2, 4])
PIVOTS = torch.tensor([[0, 2, 5], [1, 3, 4]])
RANDOM = torch.rand(BATCH, HEADS, 9, 9, generator=torch.Generator().manual_seed(3)) < 0.5
RANDOM |= torch.eye(9, dtype=torch.bool)
SLOPE = torch.linspace(-1, 1, 81, dtype=torch.float64).view(9, 9)


def no_bias(query: int, key: int) -> float:
    return 0.0


def three_region_sees(b: int, q: int, k: int) -> bool:
    behind = q // 2 - k // 2
    return k <= q and (behind < 2 or k in PIVOTS[b].tolist())


CASES: dict[str, tuple[Visibility, Sees, Callable[[int, int], float]]] = {
    "causal": (Causal(), lambda b, q, k: k <= q, no_bias),
    "prefix": (Prefix(4), lambda b, q, k: k <= q or k < 4, no_bias),
    "prefix by row": (Prefix(PREFIXES), lambda b, q, k: k <= q or k < int(PREFIXES[b]), no_bias),
    "dense": (Dense(RANDOM[0, 0]), lambda b, q, k: bool(RANDOM[0, 0, q, k]), no_bias),
    "dense by row": (Dense(RANDOM[:, 0]), lambda b, q, k: bool(RANDOM[b, 0, q, k]), no_bias),
    "dense, biased": (
        Dense(RANDOM[:, :1], SLOPE),
        lambda b, q, k: bool(RANDOM[b, 0, q, k]),
        lambda q, k: float(SLOPE[q, k]),
    ),
    "three regions": (
        ThreeRegion(2, 2, PIVOTS),
        three_region_sees,
        lambda q, k: math.log(9 // 3) if q // 2 - k // 2 >= 2 else 0.0,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("queries", [9, 4, 1])
def test_every_pattern_is_what_its_definition_says(name: str, queries: int) -> None:
    """All keys read at once, several with a cache, and one step of decoding."""
    pattern, sees, bias = CASES[name]
    query, key, value = inputs(queries, 9)
    expected = by_loops(query, key, value, sees, bias)
    dense = pattern.dense_view(queries, 9)
    torch.testing.assert_close(attend_fused(query, key, value, pattern.view(queries, 9)), expected)
    torch.testing.assert_close(attend_fused(query, key, value, dense), expected)
    torch.testing.assert_close(attend_written(query, key, value, dense), expected)
    torch.testing.assert_close(attend_written(query, key, value, dense, alpha=32.0), expected)
    torch.testing.assert_close(attend_released(query, key, value, dense), expected)


@pytest.mark.parametrize("queries", range(1, 7))
def test_fast_paths_equal_the_definition_at_every_length(queries: int) -> None:
    query, key, value = inputs(queries, 6)
    for pattern in (Causal(), *(Prefix(length) for length in range(8))):
        fast = attend_fused(query, key, value, pattern.view(queries, 6))
        torch.testing.assert_close(fast, attend_fused(query, key, value, pattern.dense_view(queries, 6)))


def test_a_mask_by_head_tells_the_heads_apart() -> None:
    query, key, value = inputs(9, 9)
    together = attend_fused(query, key, value, Dense(RANDOM).view(9, 9))
    for head in range(HEADS):
        here = slice(head, head + 1)
        one = query[:, here], key[:, here], value[:, here]
        alone = attend_fused(*one, Dense(RANDOM[:, head]).view(9, 9))
        torch.testing.assert_close(together[:, head : head + 1], alone)


def test_a_query_that_sees_nothing_is_uniform_as_released() -> None:
    query, key, value = inputs(3, 3)
    view = Dense(torch.tensor([[True, False, False], [False] * 3, [True] * 3])).view(3, 3)
    out = attend_released(query, key, value, view)
    torch.testing.assert_close(out[:, :, 1], value.mean(2))
    torch.testing.assert_close(out[:, :, 0], value[:, :, 0])


@settings(max_examples=30)
@given(length=st.integers(9, 40), window=st.integers(1, 9), times=st.integers(1, 3), seed=st.integers(0, 999))
def test_blocks_of_three_regions_equal_the_dense_form(
    length: int, window: int, times: int, seed: int
) -> None:
    """Output and gradients of the gathered form, at lengths that the window need not divide."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.rand(BATCH, length, generator=generator) < 0.1
    count = max(4, int(text.sum(-1).max()))
    pattern = ThreeRegion(window, times, sample_pivots(text, ~text, count, generator=generator)[0])
    results = []
    for view in (pattern.view(length, length), pattern.dense_view(length, length)):
        leaves = each(Tensor.requires_grad_, inputs(length, length, seed))
        out = attend_fused(*leaves, view)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for fast, reference in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference)


MASKED = {name: CASES[name][0] for name in ("causal", "prefix", "prefix by row", "dense by row")}
MASKED["dense by head"], MASKED["all"] = Dense(RANDOM), Dense(torch.ones(9, 9, dtype=torch.bool))


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("scores", [1, 3 * 9, 1 << 20])
@pytest.mark.parametrize("queries", [2, 4, 96])
def test_short_sequences_in_bfloat16_err_by_its_digits(
    name: str, scores: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output and gradients against float64, in blocks and parts of any size."""
    monkeypatch.setattr(short, "SCORES", scores)
    monkeypatch.setattr(short, "QUERIES", queries)
    packed = torch.stack(inputs(9, 9)).permute(1, 3, 0, 2, 4).flatten(2).bfloat16()  # (b, n, 3 h)
    slope = torch.randn(BATCH, 9, HEADS * WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    leaf, exact = packed.clone().requires_grad_(), packed.double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = short.attend(leaf, HEADS, MASKED[name].view(9, 9))
    split = exact.view(BATCH, 9, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind()
    expected = attend_written(*split, MASKED[name].dense_view(9, 9)).transpose(1, 2).flatten(2)
    slopes = torch.autograd.grad(found, leaf, slope), torch.autograd.grad(expected, exact, slope.double())
    for ours, theirs in zip((found, *slopes[0]), (expected, *slopes[1]), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).norm() <= 2**-6 * theirs.norm()


def test_short_attention_is_for_training_whole_sequences_without_dropout_or_bias() -> None:
    qkv = torch.randn(BATCH, 9, 18).bfloat16().requires_grad_()
    assert short.is_faster(qkv, View(causal=True), 0.0) == multiplies_bf16()
    assert not short.is_faster(qkv, View(causal=True), 0.1)
    assert not short.is_faster(qkv, CASES["dense, biased"][0].view(9, 9), 0.0)
    assert not short.is_faster(qkv.float(), View(causal=True), 0.0)
    assert not short.is_faster(qkv.repeat(1, 57, 1), View(causal=True), 0.0)
    with torch.no_grad():
        assert not short.is_faster(qkv, View(causal=True), 0.0)


OWN: dict[str, tuple[Visibility, int]] = {
    "three regions": (ThreeRegion(64, 2, torch.arange(0, 600, 30).expand(BATCH, -1)), 600),
    "local": (Local((4, 6), Window(3, 3), 2, torch.tensor([1, 0])), 26),
    "cross-resolution": (CrossResolution(2, (2, 2), (4, 6), Window(1, 1), Window(3, 3)), 30),
}


@pytest.mark.parametrize("name", OWN)
def test_autocast_does_not_reach_into_our_own_kernels(name: str) -> None:
    """Forward and backward: scores stay float32, and the results are those without autocast, bit for bit."""
    pattern, length = OWN[name]
    view = pattern.view(length, length)
    assert view.kernel is not None
    results = []
    for on in (False, True):
        leaves = each(lambda x: x.bfloat16().requires_grad_(), inputs(length, length))
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            out = attend_fused(*leaves, view)
            results.append((out, *torch.autograd.grad(out, leaves, torch.ones_like(out))))
    assert all(x.dtype == torch.bfloat16 for x in results[1])
    assert all(torch.equal(found, exact) for exact, found in zip(*results, strict=True))


@given(batch=st.integers(1, 3), length=st.integers(1, 30), seed=st.integers(0, 999), data=st.data())
def test_pivots_are_the_text_and_some_of_the_image(
    batch: int, length: int, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (batch, length), generator=generator)  # 0 padding, 1 text, 2 image
    text, image = kind == 1, kind == 2
    least, most = int(text.sum(-1).max()), int((text | image).sum(-1).min())
    if least > most:
        with pytest.raises(CogViewError, match="pivots"):
            sample_pivots(text, image, most)
        return
    count = data.draw(st.integers(least, most))
    pivots = sample_pivots(text, image, count, layers=2, generator=generator)
    assert pivots.shape == (2, batch, count)
    for layer in pivots.tolist():
        for row, chosen in enumerate(layer):
            assert sorted(set(chosen)) == chosen
            assert set(torch.nonzero(text[row])[:, 0].tolist()) <= set(chosen)
            assert all((text | image)[row, chosen].tolist())


def test_each_layer_draws_its_pivots_anew_and_evenly() -> None:
    text = torch.zeros(1, 20, dtype=torch.bool)
    text[0, :3] = True
    pivots = sample_pivots(text, ~text, 8, layers=4000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(pivots.flatten(), minlength=20) / 4000
    assert torch.equal(share[:3], torch.ones(3))
    assert (share[3:] - 5 / 17).abs().max() < 4 * math.sqrt(5 / 17 * 12 / 17 / 4000)


def test_eq_4_is_finite_in_half_precision_where_plain_attention_is_not() -> None:
    """Scores of 1e5 with a common bias: small enough after division by alpha, too large before."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, 4, 64, generator=generator) + 120
    key = torch.randn(1, 1, 4, 64, generator=generator) * 0.02 + 120
    value = torch.randn(1, 1, 4, 64, generator=generator)
    assert (query @ key.mT / 8).abs().max() > 1e5
    half = each(Tensor.half, (query, key, value))
    exact = attend_written(*each(Tensor.double, half), View())
    assert not attend_written(*half, View()).isfinite().all()
    relaxed = attend_written(*half, View(), alpha=32.0)
    assert relaxed.isfinite().all()
    assert attend_fused(*half, View()).isfinite().all()  # keeps its scores in float32
    torch.testing.assert_close(attend_fused(*half, View()).double(), exact, rtol=0, atol=2e-2)


def test_eq_4_takes_each_querys_own_largest_score_among_what_it_sees() -> None:
    """One query's scores are 4e5, another's 0: by one largest for both the latter would have only -inf."""
    query = torch.stack([torch.zeros(64), torch.full((64,), 220.0)])[None, None].half()
    key = torch.stack([torch.full((64,), 200.0), torch.full((64,), 210.0)])[None, None].half()
    value = torch.eye(2, 64)[None, None].half()
    view = Causal().dense_view(2, 2)
    exact = attend_written(*each(Tensor.double, (query, key, value)), view)
    assert (query.double() @ key.double().mT / 8).max() > 3e5
    torch.testing.assert_close(
        attend_written(query, key, value, view, alpha=32.0).double(), exact, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("alpha", [1.0, 32.0, 1000.0])
def test_eq_4_equals_softmax_where_both_are_finite(alpha: float) -> None:
    query, key, value = each(Tensor.half, inputs(9, 9))
    view = Causal().dense_view(9, 9)
    exact = attend_written(query.double(), key.double(), value.double(), view)
    for out in (attend_written(query, key, value, view, alpha=alpha), attend_fused(query, key, value, view)):
        assert out.dtype == torch.float16
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=5e-3)


def test_eq_4_has_the_gradients_of_softmax() -> None:
    view, results = Causal().dense_view(6, 6), []
    for alpha in (None, 32.0):
        leaves = each(Tensor.requires_grad_, inputs(6, 6))
        results.append(torch.autograd.grad(attend_written(*leaves, view, alpha=alpha).square().sum(), leaves))
    for relaxed, plain in zip(*results, strict=True):
        torch.testing.assert_close(relaxed, plain)


@pytest.mark.parametrize("kernel", [attend_fused, attend_written, attend_released])
def test_dropout_keeps_the_mean(kernel: Callable[..., Tensor]) -> None:
    query, key, value = each(Tensor.float, inputs(3, 3))
    view = Causal().dense_view(3, 3)
    torch.manual_seed(0)
    many = torch.stack([kernel(query, key, value, view, 0.3) for _ in range(1500)])
    assert many.std(0).max() > 0.1
    torch.testing.assert_close(many.mean(0), kernel(query, key, value, view), rtol=0, atol=0.17)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        Dense(torch.ones(3, 3))
    with pytest.raises(ValueError, match="dimensions"):
        Dense(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not cover 2 queries and 5 keys"):
        Dense(torch.ones(4, 4, dtype=torch.bool)).view(2, 5)
