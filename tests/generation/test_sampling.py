"""SamplingParams against brute force, closed forms, the released operator, and chance itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor

from cogview.generation.sampling import (
    Streams,
    filter_logits,
    guide,
    gumbel_sample,
    keep_top_k,
    keep_top_p,
)
from cogview.types import MAX_SEED, SamplingParams

RELEASED = Path(__file__).parents[1] / "fixtures/cogview1/topk_topp_op.safetensors"
rows = st.lists(st.integers(-8, 8).map(lambda x: x / 2), min_size=1, max_size=12)  # ties are common


@given(rows, st.integers(0, 14))
def test_top_k_keeps_what_has_fewer_than_k_above_it(row: list[float], k: int) -> None:
    kept = keep_top_k(torch.tensor([row]), k)[0]
    for value, result in zip(row, kept.tolist(), strict=True):
        stays = k == 0 or sum(other > value for other in row) < k
        assert result == (value if stays else -np.inf)


@given(rows, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_exceeds_p(row: list[float], p: float) -> None:
    kept = torch.isfinite(keep_top_p(torch.tensor([row]), p)[0])
    probability = torch.tensor(row).double().softmax(0)
    inside, least = probability[kept], probability[kept].min()
    assert inside.sum() > p - 1e-6
    assert inside.sum() - least <= p + 1e-6  # without the last one it is not enough
    assert (probability[~kept] <= least).all()


def test_settings_that_keep_everything() -> None:
    logits = torch.randn(3, 20)
    for settings in (
        SamplingParams(),
        SamplingParams(top_p=0),
        SamplingParams(top_k=20),
        SamplingParams(top_k=100),
    ):
        assert torch.equal(filter_logits(logits, settings), logits)


def test_the_released_operator() -> None:
    recorded = load_file(RELEASED)
    assert torch.equal(keep_top_k(recorded["logits"], 7), recorded["topk7"])
    assert torch.equal(keep_top_p(recorded["topp_in"], 0.9), recorded["topp09"])


def test_temperature_comes_first_and_top_p_sees_what_top_k_leaves() -> None:
    logits = torch.tensor([[4.0, 2.0, 1.0, 0.0]])
    kept = filter_logits(logits, SamplingParams(temperature=2.0, top_k=3, top_p=0.6))
    # softmax(2, 1, 0.5) = 0.63, 0.23, 0.14: the first alone is more than 0.6; of all four it would be 0.58
    assert torch.isfinite(kept).tolist() == [[True, False, False, False]]
    assert kept[0, 0] == 2.0


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 3.0])
def test_guidance_is_a_power_of_the_ratio(scale: float) -> None:
    conditional, unconditional = torch.randn(2, 4, 9, dtype=torch.float64)
    p, q = conditional.softmax(-1), unconditional.softmax(-1)
    expected = q * (p / q) ** scale
    torch.testing.assert_close(
        guide(conditional, unconditional, scale).softmax(-1), expected / expected.sum(-1, keepdim=True)
    )


def tokens_drawn(logits: Tensor, pairs: list[tuple[int, int]], steps: int) -> Tensor:
    """(steps, pairs) from the same logits (v,) everywhere."""
    streams, size = Streams(pairs, steps, "cpu"), logits.shape[0]
    return torch.stack([gumbel_sample(logits, streams.gumbel(step, size)) for step in range(steps)])


@pytest.mark.parametrize("varied", ["seed", "index", "step"])
def test_tokens_follow_the_softmax(varied: str) -> None:
    count = 2000 if varied == "step" else 20_000
    logits = torch.tensor([2.0, 1.5, 0.0, -0.5, -3.0, 1.0, -torch.inf, 0.2])
    if varied == "step":
        drawn = tokens_drawn(logits, [(7, 0)], count)
    else:
        pairs = [(i, 5) if varied == "seed" else (5, i) for i in range(count)]
        drawn = tokens_drawn(logits, pairs, 1)
    seen = torch.bincount(drawn.flatten(), minlength=8).numpy()
    expected = logits.double().softmax(0).numpy() * count
    assert seen[6] == 0
    possible = expected > 0
    assert stats.chisquare(seen[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("lag", ["step", "index", "seed", "token"])
def test_neighbouring_draws_are_independent(lag: str) -> None:
    """A contingency table of two draws that differ in one coordinate by one."""
    count, uniform = 2000 if lag == "step" else 20_000, torch.zeros(4)
    if lag == "step":
        drawn = tokens_drawn(uniform, [(3, 0)], count + 1).flatten()
        first, second = drawn[:-1], drawn[1:]
    elif lag == "token":
        noise = Streams([(3, i) for i in range(count)], 1, "cpu").gumbel(0, 8)
        first, second = noise[:, :4].argmax(-1), noise[:, 4:].argmax(-1)
    else:
        pairs = [(3, i) if lag == "index" else (i, 3) for i in range(count + 1)]
        drawn = tokens_drawn(uniform, pairs, 1).flatten()
        first, second = drawn[:-1], drawn[1:]
    table = torch.bincount(first * 4 + second, minlength=16).view(4, 4).numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_noise_is_gumbels() -> None:
    noise = torch.stack([Streams([(1, 2)], 8, "cpu").gumbel(step, 5000) for step in range(8)]).flatten()
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_a_stream_does_not_depend_on_its_batch_or_on_the_number_of_steps() -> None:
    pairs = [(7, 0), (7, 1), (9, 0), (MAX_SEED, MAX_SEED)]
    together = Streams(pairs, 6, "cpu")
    for row, pair in enumerate(pairs):
        alone = Streams([pair], 3, "cpu")
        assert torch.equal(alone.gumbel(2, 100)[0], together.gumbel(2, 100)[row])
    assert not torch.equal(together.gumbel(2, 100)[0], together.gumbel(2, 100)[1])
    assert torch.equal(together.gumbel(0, 40), together.gumbel(0, 100)[:, :40])
