"""The K/V cache: reading a sequence in pieces is reading it at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogview.transformer.attention import Dense, Prefix
from cogview.transformer.cache import KVCache
from cogview.transformer.model import Transformer, Visibility
from tests.transformer.tiny import tiny_config, tiny_model, tokens

MASK = (torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.5) | torch.eye(12).bool()


def in_pieces(
    model: Transformer,
    ids: Tensor,
    cuts: list[int],
    cache: KVCache,
    visibility: Visibility | Tensor | None = None,
) -> Tensor:
    """Hidden states (b, l, h), read piece by piece from where the cache stands."""
    parts, start, end = [], cache.length, cache.length + ids.shape[1]
    for stop in [*sorted({c for c in cuts if start < c < end}), end]:
        begin = cache.length
        piece = ids[:, begin - start : stop - start]
        parts.append(model(piece, torch.arange(begin, stop), visibility, cache))
    return torch.cat(parts, 1)


@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(1, 11), max_size=11),
    norm=st.sampled_from(["pre", "post", "sandwich"]),
    numerics=st.sampled_from(["fused", "written", "released"]),
    room=st.integers(0, 5),
)
def test_any_pieces_equal_the_whole(cuts: list[int], norm: str, numerics: str, room: int) -> None:
    model = tiny_model(norm=norm, numerics=numerics).double()
    ids, positions = tokens(2, 12)
    cache = KVCache.allocate(model.config, 2, 12 + room, torch.float64)
    torch.testing.assert_close(in_pieces(model, ids, cuts, cache), model(ids, positions))
    assert cache.length == 12


@given(cuts=st.lists(st.integers(1, 11), max_size=11))
@settings(max_examples=8)
def test_a_mask_over_the_whole_serves_every_piece(cuts: list[int]) -> None:
    """Only what is already read can be seen, so the mask is causal outside its first piece."""
    model = tiny_model().double()
    ids, positions = tokens(2, 12)
    mask = MASK.tril()
    cache = KVCache.allocate(model.config, 2, 12, torch.float64)
    torch.testing.assert_close(in_pieces(model, ids, cuts, cache, mask), model(ids, positions, mask))


@pytest.mark.parametrize("lengths", [5, torch.tensor([5, 3])])
def test_the_prefix_is_read_first_then_decoded(lengths: int | Tensor) -> None:
    model = tiny_model().double()
    ids, positions = tokens(2, 12)
    cache = KVCache.allocate(model.config, 2, 12, torch.float64)
    out = in_pieces(model, ids, [5, 6, 7, 9], cache, Prefix(lengths))
    torch.testing.assert_close(out, model(ids, positions, Prefix(lengths)))
    assert (out - model(ids, positions)).abs().max() > 0.1


def test_one_prefill_fans_out_to_many() -> None:
    """Each of 2 prompts is read once and continued 3 ways, as if every sequence had been read whole."""
    model = tiny_model().double()
    prompts, ends = tokens(2, 5, seed=1)[0], tokens(6, 7, seed=2)[0]
    small = KVCache.allocate(model.config, 2, 5, torch.float64)
    model(prompts, torch.arange(5), cache=small)
    cache = small.expand(3, length=12)
    assert (cache.batch, cache.length, cache.capacity) == (6, 5, 12)
    out = in_pieces(model, ends, list(range(12)), cache)
    whole = torch.cat([prompts[[0, 0, 0, 1, 1, 1]], ends], 1)
    torch.testing.assert_close(out, model(whole, torch.arange(12))[:, 5:])
    assert small.length == 5  # untouched


def test_selected_rows_go_on_as_they_would() -> None:
    model = tiny_model().double()
    ids, positions = tokens(3, 12)
    cache = KVCache.allocate(model.config, 3, 12, torch.float64)
    model(ids[:, :8], positions[:8], cache=cache)
    rows = torch.tensor([2, 0])
    out = in_pieces(model, ids[rows, 8:], [10], cache.select(rows))
    torch.testing.assert_close(out, model(ids, positions)[rows, 8:])


def test_reset_goes_back_to_a_shared_beginning() -> None:
    model = tiny_model().double()
    cache = KVCache.allocate(model.config, 2, 12, torch.float64)
    for seed in (1, 2):
        ids, positions = tokens(2, 12, seed=seed)
        ids[:, :4] = 7
        begun = cache.length
        out = in_pieces(model, ids[:, begun:], [6, 9], cache)
        torch.testing.assert_close(out, model(ids, positions)[:, begun:])
        cache.reset(4)
    assert begun == 4
    cache.reset()
    assert cache.length == 0


def test_size_is_what_is_allocated() -> None:
    config = tiny_config()
    for dtype in (torch.float32, torch.float16):
        cache = KVCache.allocate(config, 3, 10, dtype)
        assert cache.nbytes == KVCache.size_in_bytes(config, 3, 10, dtype)
        assert cache.nbytes == 2 * 2 * 3 * 10 * 24 * dtype.itemsize


def test_steps_write_in_place() -> None:
    model = tiny_model()
    ids, _ = tokens(1, 6)
    cache = KVCache.allocate(model.config, 1, 6)
    where = cache.entries.data_ptr()
    in_pieces(model, ids, [1, 2, 3, 4, 5], cache)
    assert cache.entries.data_ptr() == where


def test_more_than_fits_is_refused() -> None:
    model = tiny_model()
    ids, positions = tokens(1, 6)
    cache = KVCache.allocate(model.config, 1, 5)
    with pytest.raises(ValueError, match="room for 5 tokens, not 6"):
        model(ids, positions, cache=cache)
    assert cache.length == 0
    model(ids[:, :5], positions[:5], cache=cache)
    with pytest.raises(ValueError, match="5 tokens do not fit into a cache for 4"):
        cache.expand(2, length=4)
    with pytest.raises(ValueError, match="cannot go back to 6 of 5"):
        cache.reset(6)


def test_a_short_mask_is_refused() -> None:
    model = tiny_model()
    ids, positions = tokens(1, 6)
    with pytest.raises(ValueError, match="does not cover"):
        model(ids, positions, Dense(torch.ones(5, 5, dtype=torch.bool)))
