"""The patterns of CogLM against masks written down anew, at every length and with a cache."""

from __future__ import annotations

import pytest
import torch

from cogview.transformer.attention import BlockCausal, MaskRegions, Prefix, TextAttentionBias, Visibility
from cogview.transformer.cache import KVCache
from tests.transformer.tiny import tiny_config, tiny_model, tokens

ORDER = torch.tensor([[0, 1, 2, 0, 0, 3, 4, -1, -1], [0, 0, 0, 1, 2, 3, 4, 5, 6]])
PATTERNS: dict[str, Visibility] = {
    "regions": MaskRegions(ORDER),
    "staircase": BlockCausal.of_blocks(3, 1, 2, 1, 1, 1),
    "emphasis": TextAttentionBias(Prefix(3), 3, 1.4),
}


def test_a_staircase_is_blocks() -> None:
    expected = torch.tensor(
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    )
    assert torch.equal(BlockCausal.of_blocks(2, 1, 2).dense_mask(5, 5)[0, 0], expected.bool())
    with pytest.raises(ValueError, match="sees itself"):
        BlockCausal(torch.tensor([1, 1]))


def test_streams_do_not_see_each_other() -> None:
    pattern = MaskRegions(torch.arange(1, 5), torch.tensor([0, 1, 1, 2]))
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert pattern.dense_mask(4, 4)[0, 0].int().tolist() == expected


def test_emphasis_is_added_to_the_scores() -> None:
    """In one head of one layer, by softmax with the text's probabilities times e^c."""
    pattern = TextAttentionBias(Prefix(2), torch.tensor([2, 1]), 1.4)
    bias = pattern.bias(3, 5)
    assert bias.shape == (2, 1, 1, 5)
    assert bias[:, 0, 0, :3].tolist() == [pytest.approx([1.4, 1.4, 0]), pytest.approx([1.4, 0, 0])]
    inner = TextAttentionBias(pattern, 1, 0.6)
    added = inner.view(5, 5).bias
    assert added is not None and added[0, 0, 0, 0].item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_fast_path_is_the_definition(name: str) -> None:
    """The model with the fused kernel against the written-out one with the dense mask."""
    ids, positions = tokens()
    fused = tiny_model()(ids, positions, PATTERNS[name])
    written = tiny_model(numerics="released")(ids, positions, PATTERNS[name])
    torch.testing.assert_close(fused, written, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["staircase", "emphasis"])
def test_with_a_cache_it_is_the_same(name: str) -> None:
    """The blocks that see what comes later are read at once, the rest token by token."""
    model, (ids, positions) = tiny_model(), tokens()
    whole = model(ids, positions, PATTERNS[name])
    cache = KVCache.allocate(tiny_config(), 2, 9)
    parts = [
        model(ids[:, a:b], positions[a:b], PATTERNS[name], cache) for a, b in ((0, 6), (6, 7), (7, 8), (8, 9))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
