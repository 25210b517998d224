"""Drawing with sparse attention: what is seen, and the same picture in any company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.loop import SequenceRequest
from cogview.generation.sparse import Sparse, sample_recent_pivots
from cogview.transformer.attention import Causal
from cogview.transformer.config import ThreeRegionConfig
from cogview.types import SamplingParams
from tests.generation import tiny
from tests.generation.engines import CODES, SETTINGS, by_hand, make_engine, prompts, tokens


def sparse(window: int, times: int, pivots: int) -> Sparse:
    return Sparse(ThreeRegionConfig(window=window, times=times, pivots=pivots), tiny.CODES)


@settings(max_examples=40, deadline=None)
@given(
    left=st.integers(1, 40),
    texts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    ratio=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_pivots_are_the_text_and_a_share_of_the_rest(
    left: int, texts: list[int], ratio: float, seed: int
) -> None:
    """As many as the released formula says, all of the text, no token twice, nothing that is padding."""
    place = torch.arange(left)
    padding = torch.tensor([seed % 3] * len(texts))[:, None].clamp(max=left - 1)
    text = (place >= padding) & (place < padding + torch.tensor(texts)[:, None])
    image = (place >= padding) & ~text
    chance = torch.rand(2, len(texts), left, generator=torch.Generator().manual_seed(seed))
    pivots, seen = sample_recent_pivots(text, image, ratio, chance)
    for layer in range(2):
        for row in range(len(texts)):
            found = pivots[layer, row][seen[layer, row]].tolist()
            there = int(text[row].sum())
            whole = left - int(padding[row])
            assert len(found) == len(set(found)) == there + int((whole - there) * ratio)
            assert set(torch.nonzero(text[row]).flatten().tolist()) <= set(found)
            assert all(p >= padding[row] for p in found)


def test_it_is_dense_where_everything_is_a_pivot_or_in_the_window() -> None:
    job = [SequenceRequest(prompt, 3, 1) for prompt in prompts()[:1]]
    expected = by_hand(tiny.transformer(), job[0], SETTINGS)
    for wide in (sparse(200, 1, 1), sparse(2, 3, 200)):
        assert tokens(make_engine(sparse=wide), job)[0].tolist() == expected


def test_a_picture_does_not_depend_on_its_batch() -> None:
    """Prompts of several lengths, so rows are padded and have different numbers of pivots; and guidance."""
    for guided in (SamplingParams(top_k=30), SamplingParams(top_k=30, guidance=2.0)):
        read = prompts("index")
        jobs = [
            SequenceRequest(p, 5, i, read[2] if guided.guidance_scale != 1 else None)
            for i, p in enumerate(read)
        ]
        engine = make_engine(sparse=sparse(2, 2, 16))
        together = tokens(engine, jobs, guided)
        alone = tokens(engine, jobs, guided, batch_size=1)
        assert (together == alone).all()
    assert (together != tokens(make_engine(), jobs, guided)).any()


def test_a_step_sees_what_its_form_says() -> None:
    """Changing a token that is no pivot in any layer and before the window changes nothing; others do."""
    model = tiny.transformer()
    decoder = pack(model, CODES)
    prompt = prompts()[0]
    form = sparse(2, 2, 8)
    pattern = form.visibility(
        [prompt.ids], [(1, 2)], decoder.rows, 40, Causal(), decoder.config, decoder.device
    )
    length = len(prompt.ids) + 10
    masks = [pattern.dense_view(1, length, None, layer).allowed for layer in range(2)]
    seen = torch.stack([mask[0, 0, 0] for mask in masks if mask is not None]).any(0)
    assert seen[: len(prompt.ids)].all() and seen[-4:].all() and not seen.all()
    assert torch.equal(masks[0], pattern.dense_mask(1, length))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, n, 8, generator=generator) for n in (1, length, length))
    for layer in range(2):
        view = pattern.view(1, length, None, layer)
        assert view.kernel is not None
        mask = masks[layer]
        assert mask is not None
        hidden = ~mask[0, 0, 0]
        before = view.kernel(query, key, value, 0.0)
        changed = torch.where(hidden[:, None], torch.randn(key.shape, generator=generator), key)
        torch.testing.assert_close(view.kernel(query, changed, value, 0.0), before)
        assert not torch.allclose(
            view.kernel(query, key + hidden.logical_not()[:, None] * key, value, 0.0), before
        )


def test_emphasis_does_not_go_with_it() -> None:
    engine = make_engine(sparse=sparse(2, 2, 8))
    with pytest.raises(CogViewError, match="emphasis"):
        tokens(engine, [SequenceRequest(prompts()[0], 1, 1)], SamplingParams(emphasis=1.0))
