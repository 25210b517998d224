"""From logits to tokens: guidance, temperature, clusters, top-k, top-p, and one random stream per image.

Cluster sampling (CogView2, section 4.1): similar codes are kept or dropped together; first a cluster is
sampled, then a code in it. Both are sampled in one step here, from the product of their probabilities.

Top-k keeps ties and top-p keeps the token that crosses p, as in the released code. Noise is a function of
(seed, image, step, token) from a counter-based generator: image i gets the same numbers alone and in any
batch, after a retry and on any device, without synchronizing with the device. A token is sampled with the
Gumbel-max trick, the argmax of the logits plus Gumbel noise, so rounding changes a token only if two are
nearly tied.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cogview.generation.without_model import stream_keys
from cogview.types import SamplingParams


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u); any shape."""
    return torch.lerp(unconditional, conditional, scale)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set logits (b, v) below the k-th largest of their row to -inf; ties are kept; 0 keeps all."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most likely tokens whose probabilities first sum to more than p; set other logits (b, v) to
    -inf.

    p of 0 or 1 keeps all.
    """
    if not 0 < p < 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1).roll(1, -1)  # probability of the tokens before each one
    before[:, 0] = 0
    excess = before > p
    return logits.masked_fill(excess.scatter(-1, order, excess), -torch.inf)


def by_cluster(logits: Tensor, labels: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (b, v) of cluster sampling, up to a constant per row.

    Args:
        logits: (b, v), already divided by the temperature.
        labels: (v,) int64, the cluster of each token, from 0.
        k: number of clusters to keep, by the sum of their tokens' probabilities (0: all).
        temperature: divides the logits inside a cluster.
    """
    index, count = labels.expand(logits.shape), _clusters(labels)
    empty = logits.new_full((len(logits), count), -torch.inf)
    masses = logits.new_zeros(empty.shape).scatter_add(1, index, logits.softmax(-1))
    inside = logits / temperature
    largest = empty.scatter_reduce(1, index, inside, "amax").clamp(min=torch.finfo(logits.dtype).min)
    shifted = inside - largest.gather(1, index)
    sums = logits.new_zeros(empty.shape).scatter_add(1, index, shifted.exp())
    offsets = keep_top_k(masses.log(), k) - sums.log()
    return (offsets.gather(1, index) + shifted).masked_fill(logits == -torch.inf, -torch.inf)


@lru_cache(maxsize=8)
def _clusters(labels: Tensor) -> int:
    """The number of clusters; cached, since reading it synchronizes with the device."""
    return int(labels.max()) + 1


def filter_logits(logits: Tensor, sampling: SamplingParams, labels: Tensor | None = None) -> Tensor:
    """Apply temperature, clusters (if any), top-k and then top-p to logits (b, v).

    labels: (v,) the clusters; not needed if ``sampling.clusters`` is 0.
    """
    logits = logits / sampling.temperature
    if sampling.clusters:
        assert labels is not None, "cluster sampling needs labels"
        logits = by_cluster(logits, labels, sampling.clusters, sampling.cluster_temperature)
    return keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p)


def gumbel_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Sample one token per row (b,) int64 from softmax(logits (b, v)), given Gumbel noise (b, v)."""
    return (logits + noise).argmax(-1)


def sample(logits: Tensor, noise: Tensor, sampling: SamplingParams, labels: Tensor | None = None) -> Tensor:
    """Filter, then sample: mostly without finding the k-th largest logit, since the argmax over all tokens is
    the result if fewer than k logits are larger than its logit."""
    k = sampling.top_k
    if sampling.clusters or 0 < sampling.top_p < 1 or not 0 < k < logits.shape[-1] or logits.is_cuda:
        return gumbel_sample(filter_logits(logits, sampling, labels), noise)
    scaled = logits / sampling.temperature
    tokens = gumbel_sample(scaled, noise)
    outside = (scaled > scaled.gather(1, tokens[:, None])).sum(-1) >= k
    if bool(outside.any()):
        tokens[outside] = gumbel_sample(keep_top_k(scaled[outside], k), noise[outside])
    return tokens


class Streams:
    """The random streams of a batch of images.

    Args:
        pairs: (seed, index) of each image, both in [0, 2^63).
        steps: number of tokens to sample for each.
        first: number of tokens sampled before.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], steps: int, device: torch.device | str, first: int = 0
    ) -> None:
        bits = stream_keys(pairs, first + steps)[first:]
        keys = bits.view(np.uint32).astype(np.int32).reshape(steps, len(pairs), 2, 1)
        self.keys = torch.from_numpy(keys).to(device)  # (steps, b, 2, 1)

    def gumbel(self, step: int, tokens: int) -> Tensor:
        """Gumbel noise float32 (b, tokens) for one step."""
        return self._noise(self.keys[step], tokens)

    def gumbel_of(
        self, images: int | Sequence[int] | Tensor, steps: Sequence[int] | Tensor, tokens: int
    ) -> Tensor:
        """Gumbel noise float32 (n, tokens) for n steps, of one image or of one image each; for tensors that
        broadcast, (..., tokens)."""
        return self._noise(self.keys[steps, images], tokens)

    def _noise(self, keys: Tensor, tokens: int) -> Tensor:
        first, second = keys.unbind(-2)
        bits = torch.arange(tokens, dtype=torch.int32, device=keys.device)
        return _to_gumbel(_mix(_mix(bits ^ first).bitwise_xor_(second)))


def _mix(x: Tensor) -> Tensor:
    """Wellons' lowbias32, in place: a bijection in which every input bit moves every output bit."""
    x ^= (x >> 16) & 0xFFFF  # int32 shifts carry the sign, hence the masks
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= 0x846CA68B - (1 << 32)
    x ^= (x >> 16) & 0xFFFF
    return x


def _to_gumbel(bits: Tensor) -> Tensor:
    """-log(-log(1 - u)), u in (0, 1) from int32 bits, with the finest resolution near 0, where the largest
    values come from."""
    scale = (1 - 2.0**-24) * 2.0**-31  # keeps u below 1 after rounding
    u = (bits & 0x7FFFFFFF).to(torch.float32).mul_(-scale).sub_(scale / 2)
    return u.log1p_().neg_().log_().neg_()
