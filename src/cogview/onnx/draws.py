"""From logits to tokens in NumPy: the counterpart of ``generation.sampling`` without PyTorch.

Arrays are float32 and operations have the same order, so that a token differs only if two are tied up to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview.generation.without_model import stream_keys
from cogview.types import Ids, SamplingParams

Floats = NDArray[np.float32]


def guide(conditional: Floats, unconditional: Floats, scale: float) -> Floats:
    """Classifier-free guidance on logits or hidden states: u + scale (c - u); any shape."""
    difference = conditional - unconditional
    if scale < 0.5:
        return unconditional + np.float32(scale) * difference
    return conditional - difference * np.float32(1 - scale)


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    probabilities: Floats = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    return probabilities


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probs


def keep_top_k(logits: Floats, k: int) -> Floats:
    """Set logits (b, v) below the k-th largest of their row to -inf; ties are kept; 0 keeps all."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = np.partition(logits, -k, axis=-1)[:, -k, None]
    return np.where(logits < least, np.float32(-np.inf), logits)


def keep_top_p(logits: Floats, p: float) -> Floats:
    """Keep the most likely tokens whose probabilities first sum to more than p; set other logits (b, v) to
    -inf.

    p of 0 or 1 keeps all.
    """
    if not 0 < p < 1:
        return logits
    order = np.argsort(-logits, axis=-1, kind="stable")
    before = np.roll(softmax(np.take_along_axis(logits, order, -1)).cumsum(-1), 1, -1)
    before[:, 0] = 0
    excess = np.zeros(logits.shape, dtype=np.bool_)
    np.put_along_axis(excess, order, before > p, -1)
    return np.where(excess, np.float32(-np.inf), logits)


def by_cluster(logits: Floats, labels: Ids, k: int, temperature: float = 1.0) -> Floats:
    """Log-probabilities (b, v) of cluster sampling, up to a constant per row.

    Args:
        logits: (b, v), already divided by the temperature.
        labels: (v,) int64, the cluster of each token, from 0.
        k: number of clusters to keep, by the sum of their tokens' probabilities (0: all).
        temperature: divides the logits inside a cluster.
    """
    masses, inside = _sums(softmax(logits), labels), logits / np.float32(temperature)
    largest = np.full(masses.shape, np.finfo(np.float32).min, dtype=np.float32)
    np.maximum.at(largest.T, labels, inside.T)
    shifted = inside - largest[:, labels]
    with np.errstate(divide="ignore"):
        offsets = keep_top_k(np.log(masses), k) - np.log(_sums(np.exp(shifted), labels))
    return np.where(np.isneginf(logits), np.float32(-np.inf), offsets[:, labels] + shifted)


def _sums(values: Floats, labels: Ids) -> Floats:
    """Sums (b, clusters) of values (b, v)."""
    count = int(labels.max()) + 1
    return np.stack([np.bincount(labels, row, count) for row in values]).astype(np.float32)


def filter_logits(logits: Floats, params: SamplingParams, labels: Ids | None = None) -> Floats:
    """Apply temperature, clusters (if any), top-k and then top-p to logits (b, v)."""
    logits = logits / np.float32(params.temperature)
    if params.clusters:
        assert labels is not None, "cluster sampling needs labels"
        logits = by_cluster(logits, labels, params.clusters, params.cluster_temperature)
    return keep_top_p(keep_top_k(logits, params.top_k), params.top_p)


def sample(logits: Floats, noise: Floats, params: SamplingParams, labels: Ids | None = None) -> Ids:
    """Sample one token per row (b,) int64 from the filtered logits (b, v), given Gumbel noise (b, v).

    Mostly without finding the k-th largest logit: the argmax over all tokens is the result if fewer than k
    logits are larger than its logit.
    """
    k = params.top_k
    if params.clusters or 0 < params.top_p < 1 or not 0 < k < logits.shape[-1]:
        return _argmax(filter_logits(logits, params, labels) + noise)
    scaled = logits / np.float32(params.temperature)
    tokens = _argmax(scaled + noise)
    outside = (scaled > np.take_along_axis(scaled, tokens[:, None], -1)).sum(-1) >= k
    if outside.any():
        tokens[outside] = _argmax(keep_top_k(scaled[outside], k) + noise[outside])
    return tokens


def _argmax(scores: Floats) -> Ids:
    index: Ids = scores.argmax(-1).astype(np.int64)
    return index


class Streams:
    """The random streams of a batch of images.

    Args:
        pairs: (seed, index) of each image, both in [0, 2^63).
        steps: number of tokens to sample for each.
        first: how many numbers of each stream were used before.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], steps: int, first: int = 0) -> None:
        keys = stream_keys(pairs, first + steps)[first:]
        self.keys = np.stack([keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)], -1).astype(np.uint32)

    def gumbel_of(self, images: Sequence[int], steps: Sequence[int], tokens: int) -> Floats:
        """Gumbel noise (n, tokens) for n steps of one image each."""
        first, second = self.keys[list(steps), list(images)].T[:, :, None]  # (n, 1) each
        return _to_gumbel(_mix(_mix(np.arange(tokens, dtype=np.uint32) ^ first) ^ second))


def _mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Wellons' lowbias32, in place: a bijection in which every input bit moves every output bit."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def _to_gumbel(bits: NDArray[np.uint32]) -> Floats:
    """-log(-log(1 - u)), u in (0, 1) from 31 bits, with the finest resolution near 0, where the largest
    values come from."""
    scale = np.float32((1 - 2.0**-24) * 2.0**-31)  # keeps u below 1 after rounding
    u: Any = (bits & np.uint32(0x7FFFFFFF)).astype(np.float32)
    u *= -scale
    u -= scale / np.float32(2)
    noise: Floats = -np.log(-np.log1p(u))
    return noise
