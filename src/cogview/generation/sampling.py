"""From logits to a token: guidance, temperature, clusters, top-k, top-p, and one random stream an image.

Cluster sampling (CogView2, section 4.1): codes that look alike are kept or dropped together, first a cluster
is drawn, then a code in it. Both draws are one here, from the product of their probabilities.

Top-k keeps ties and top-p keeps the token that crosses p, as in the released code. Chance is a function of
(seed, image, step, token), computed by counters: image i gets the same numbers alone and in any batch, after
a retry and on any device, and nothing waits for the device. A token is drawn by adding Gumbel noise to the
logits and taking the largest; then rounding changes a token only where two are nearly tied.
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
    """Logits moved away from those without the prompt: u + scale (c - u); any shape."""
    return torch.lerp(unconditional, conditional, scale)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (b, v) with all below the k-th largest of their row at -inf; ties with it stay; 0 keeps all."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits (b, v) with -inf after the first tokens, by falling probability, that add up to more than p.

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
    """Log-probabilities (b, v) of cluster sampling, but for a constant a row.

    Args:
        logits: (b, v), divided by the temperature already.
        labels: (v,) int64, the cluster of each token, from 0.
        k: how many clusters are kept, by the sum of their tokens' probabilities (0: all).
        temperature: divides the logits inside a cluster.
    """
    index, count = labels.expand(logits.shape), _clusters(labels)
    empty = logits.new_full((len(logits), count), -torch.inf)
    masses = logits.new_zeros(empty.shape).scatter_add(1, index, logits.softmax(-1))
    inside = logits / temperature
    largest = empty.scatter_reduce(1, index, inside, "amax").clamp(min=torch.finfo(logits.dtype).min)
    shifted = inside - largest.gather(1, index)
    sums = logits.new_zeros(empty.shape).scatter_add(1, index, shifted.exp())
    chance = keep_top_k(masses.log(), k) - sums.log()
    return (chance.gather(1, index) + shifted).masked_fill(logits == -torch.inf, -torch.inf)


@lru_cache(maxsize=8)
def _clusters(labels: Tensor) -> int:
    """How many clusters there are; counted once, since the answer is waited for."""
    return int(labels.max()) + 1


def restrict(logits: Tensor, sampling: SamplingParams, labels: Tensor | None = None) -> Tensor:
    """Temperature, clusters (if any), top-k, then top-p of what that leaves, over logits (b, v).

    labels: (v,) the clusters; not needed where ``sampling.clusters`` is 0.
    """
    logits = logits / sampling.temperature
    if sampling.clusters:
        assert labels is not None, "cluster sampling needs labels"
        logits = by_cluster(logits, labels, sampling.clusters, sampling.cluster_temperature)
    return keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p)


def draw(logits: Tensor, noise: Tensor) -> Tensor:
    """One token a row (b,) int64 from softmax(logits (b, v)), given Gumbel noise (b, v)."""
    return (logits + noise).argmax(-1)


def sample(logits: Tensor, noise: Tensor, sampling: SamplingParams, labels: Tensor | None = None) -> Tensor:
    """``draw(restrict(logits, ...), noise)``, mostly without the search for the k-th largest logit: a token
    that wins among all is the one where fewer than k logits are larger than its own."""
    k = sampling.top_k
    if sampling.clusters or 0 < sampling.top_p < 1 or not 0 < k < logits.shape[-1] or logits.is_cuda:
        return draw(restrict(logits, sampling, labels), noise)
    scaled = logits / sampling.temperature
    found = draw(scaled, noise)
    beyond = (scaled > scaled.gather(1, found[:, None])).sum(-1) >= k
    if bool(beyond.any()):
        found[beyond] = draw(keep_top_k(scaled[beyond], k), noise[beyond])
    return found


class Streams:
    """The random streams of a batch of images.

    Args:
        pairs: (seed, index) of each image, both in [0, 2^63).
        steps: tokens to be drawn for each.
        first: how many were drawn before.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], steps: int, device: torch.device | str, first: int = 0
    ) -> None:
        drawn = stream_keys(pairs, first + steps)[first:]
        keys = drawn.view(np.uint32).astype(np.int32).reshape(steps, len(pairs), 2, 1)
        self.keys = torch.from_numpy(keys).to(device)  # (steps, b, 2, 1)

    def gumbel(self, step: int, tokens: int) -> Tensor:
        """Gumbel noise float32 (b, tokens) for one step."""
        return self._noise(self.keys[step], tokens)

    def gumbel_of(
        self, images: int | Sequence[int] | Tensor, steps: Sequence[int] | Tensor, tokens: int
    ) -> Tensor:
        """Gumbel noise float32 (n, tokens) for n steps of one image, or each of its own image; for tensors of
        any shapes that broadcast (..., tokens)."""
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
    """-log(-log(1 - u)), u in (0, 1) from int32 bits, finest near 0, where the largest values come from."""
    scale = (1 - 2.0**-24) * 2.0**-31  # keeps u below 1 after rounding
    u = (bits & 0x7FFFFFFF).to(torch.float32).mul_(-scale).sub_(scale / 2)
    return u.log1p_().neg_().log_().neg_()
