"""Sampling in NumPy is sampling in PyTorch: the same noise, the same rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogview.generation import sampling
from cogview.onnx import draws
from cogview.types import MAX_SEED, SamplingParams

TOKENS = 96


def logits_of(seed: int, rows: int = 3) -> draws.Floats:
    return np.random.default_rng(seed).normal(scale=3, size=(rows, TOKENS)).astype(np.float32)


@given(seed=st.integers(0, MAX_SEED), index=st.integers(0, MAX_SEED), step=st.integers(0, 40))
def test_noise_is_the_same(seed: int, index: int, step: int) -> None:
    pairs = [(3, 1), (seed, index)]
    found = draws.Streams(pairs, 41).gumbel_of([1, 0], [step, 7], TOKENS)
    expected = sampling.Streams(pairs, 41, "cpu").gumbel_of([1, 0], [step, 7], TOKENS)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6, atol=2e-7)


def test_noise_by_hand() -> None:
    """The first number of a stream, from the definition in whole numbers of any size."""
    mask64, mask32, golden = 2**64 - 1, 2**32 - 1, 0x9E3779B97F4A7C15

    def mix64(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask64
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask64
        return x ^ x >> 31

    def mix(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D & mask32
        x = (x ^ x >> 15) * 0x846CA68B & mask32
        return x ^ x >> 16

    stream = mix64(mix64((7 + golden) & mask64) ^ 2)
    key = mix64((stream + 5 * golden) & mask64)  # step 4 is the fifth
    bits = mix(mix(11 ^ key & mask32) ^ key >> 32)  # of token 11
    u = ((bits & 0x7FFFFFFF) + 0.5) * (1 - 2**-24) * 2**-31
    expected = -np.log(-np.log1p(-u))
    found = draws.Streams([(7, 2)], 5).gumbel_of([0], [4], 12)[0, 11]
    assert found == pytest.approx(expected, rel=1e-5)


RULES = {
    "plain": SamplingParams(),
    "temperature": SamplingParams(temperature=0.6),
    "top-k": SamplingParams(top_k=10),
    "top-p": SamplingParams(top_p=0.8),
    "both": SamplingParams(temperature=1.3, top_k=20, top_p=0.7),
    "clusters": SamplingParams(clusters=3, cluster_temperature=0.8),
    "all": SamplingParams(temperature=0.9, clusters=4, top_k=30, top_p=0.9),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_the_same(name: str) -> None:
    params, labels = RULES[name], np.random.default_rng(0).integers(0, 8, TOKENS)
    for seed in range(20):
        logits = logits_of(seed)
        noise = draws.Streams([(seed, i) for i in range(3)], 1).gumbel_of([0, 1, 2], [0, 0, 0], TOKENS)
        tensors = torch.from_numpy(logits), torch.from_numpy(noise)
        kept = sampling.filter_logits(tensors[0], params, torch.from_numpy(labels))
        np.testing.assert_allclose(draws.filter_logits(logits, params, labels), kept, rtol=2e-5, atol=2e-5)
        expected = sampling.sample(*tensors, params, torch.from_numpy(labels))
        assert draws.sample(logits, noise, params, labels).tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0, 5.5])
def test_guidance_is_the_same(scale: float) -> None:
    one, other = logits_of(1), logits_of(2)
    expected = sampling.guide(torch.from_numpy(one), torch.from_numpy(other), scale)
    np.testing.assert_allclose(draws.guide(one, other, scale), expected, rtol=1e-6, atol=1e-6)


def test_log_probabilities_add_up() -> None:
    logits = logits_of(4)
    np.testing.assert_allclose(np.exp(draws.log_softmax(logits)).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(draws.softmax(logits), np.exp(draws.log_softmax(logits)), rtol=1e-4)
