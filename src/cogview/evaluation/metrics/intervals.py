"""95 % bootstrap intervals of FID, KID, Inception Score and of means over images.

Images are resampled with replacement, so a resampled set is the same images with other weights: the number of
times each was sampled. Every metric is a closed form of such weights, in float64:

- Fréchet distance: tr (S T)^(1/2) of two covariances S = X'X, T = Y'Y is the nuclear norm of X Y' (the sum of
  its singular values), so no matrix root is needed and small sets are cheap;
- squared MMD: the unbiased U-statistic without pairs of an image with itself, however often it was sampled;
- Inception Score: exp of the difference of two entropies.

The distance of resampled sets is biased because images are repeated; so the intervals of FID and KID are the
deviations from the resampled mean, centred on the metric of the original sets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cogview.evaluation.metrics.accuracy import Figure, bootstrap_weights, figure

Array = NDArray[np.float64]
BLOCK = 1024  # rows of a kernel matrix at a time


def mean_figure(values: Array, times: int = 1000, seed: int = 0) -> Figure:
    """The mean of per-image values (n,) with its bootstrap interval."""
    return figure(resampled_means(values, times, seed))


def resampled_means(values: Array, times: int, seed: int) -> Array:
    """The mean of values (n,), then the means of ``times`` resampled sets; (times + 1,)."""
    rng, n = np.random.default_rng(seed), len(values)
    means = [values[rng.integers(0, n, n)].mean() for _ in range(times)]
    return np.array([values.mean(), *means], dtype=np.float64)


def weights(count: int, times: int, seed: int) -> NDArray[np.float64]:
    """Bootstrap weights: how often each of ``count`` images is sampled, (times, count)."""
    return bootstrap_weights(["-"] * count, times, seed)[1:]


def around(value: float, samples: Array, least: float = -np.inf) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the samples' deviations from their mean, centred on ``value``.

    Samples that are NaN (sets of one repeated image) are left out; ``least`` bounds the lower end.
    """
    samples = samples[np.isfinite(samples)]
    low, high = np.percentile(samples - samples.mean(), (2.5, 97.5))
    return max(least, value + float(low)), value + float(high)


# ------------------------------------------------------------------------------------------------- FID


def frechet(
    real: Array, generated: Array, real_weights: Array | None = None, generated_weights: Array | None = None
) -> float:
    """Squared Fréchet distance of Gaussians fitted to features (n, d) and (m, d), optionally weighted."""
    (mean, root), (other_mean, other) = _moments(real, real_weights), _moments(generated, generated_weights)
    common = np.linalg.svd(root @ other.T, compute_uv=False).sum()
    distance = ((mean - other_mean) ** 2).sum() + (root**2).sum() + (other**2).sum() - 2 * common
    return float(max(0.0, distance))


def _moments(features: Array, weights: Array | None) -> tuple[Array, Array]:
    """The mean (d,) and a root R (at most d, d) of the unbiased covariance R'R."""
    weights = np.ones(len(features)) if weights is None else weights
    positive = weights > 0
    features, weights = np.asarray(features, np.float64)[positive], weights[positive]
    total = weights.sum()
    mean: Array = weights @ features / total
    root: Array = np.sqrt(weights / (total - 1))[:, None] * (features - mean)
    return mean, root if len(root) <= root.shape[1] else np.asarray(np.linalg.qr(root, mode="r"))


def frechet_interval(
    real: Array, generated: Array, value: float, times: int, seed: int
) -> tuple[float, float]:
    """The interval of a Fréchet distance, both sets resampled."""
    pairs = zip(weights(len(real), times, seed), weights(len(generated), times, seed + 1), strict=True)
    return around(value, np.array([frechet(real, generated, a, b) for a, b in pairs]), 0.0)


# ------------------------------------------------------------------------------------------------- KID


def kernel(a: Array, b: Array) -> Array:
    """The cubic kernel (x.y / d + 1)^3 of Binkowski et al. (2018), (n, m)."""
    values: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return values


def mmd(
    real: Array, generated: Array, real_weights: Array | None = None, generated_weights: Array | None = None
) -> Array:
    """Unbiased squared MMD of features (n, d), (m, d) for each row of weights (times, n) and (times, m)."""
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    a = np.ones((1, len(real))) if real_weights is None else real_weights
    b = np.ones((1, len(generated))) if generated_weights is None else generated_weights
    across = np.zeros(len(a))
    for rows in _blocks(len(real)):
        across += ((a[:, rows] @ kernel(real[rows], generated)) * b).sum(1)
    between: Array = across / (a.sum(1) * b.sum(1))
    return _within(real, a) + _within(generated, b) - 2 * between


def _within(features: Array, weights: Array) -> Array:
    """The mean kernel over pairs of different images, for each row of weights; NaN for sets of one image."""
    total = np.zeros(len(weights))
    for rows in _blocks(len(features)):
        block = kernel(features[rows], features)
        diagonal = block[np.arange(len(block)), np.arange(rows.start, rows.stop)]
        total += ((weights[:, rows] @ block) * weights).sum(1) - weights[:, rows] ** 2 @ diagonal
    with np.errstate(invalid="ignore"):
        means: Array = total / (weights.sum(1) ** 2 - (weights**2).sum(1))
    return means


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def mmd_interval(real: Array, generated: Array, value: float, times: int, seed: int) -> tuple[float, float]:
    """The interval of a squared MMD, both sets resampled."""
    return around(
        value, mmd(real, generated, weights(len(real), times, seed), weights(len(generated), times, seed + 1))
    )


# ------------------------------------------------------------------------------------------------- IS


def inception(probabilities: Array, weights: Array | None = None) -> float:
    """exp of the mean KL divergence of each image's classes (n, c) from the marginal, optionally weighted."""
    probabilities = np.asarray(probabilities, np.float64)
    weights = np.ones(len(probabilities)) if weights is None else weights
    shares = weights / weights.sum()
    return float(np.exp(shares @ _negentropy(probabilities) - _negentropy(shares @ probabilities)))


def _negentropy(p: Array) -> Array:
    values: Array = (p * np.log(np.maximum(p, 1e-30))).sum(-1)
    return values


def inception_interval(probabilities: Array, value: float, times: int, seed: int) -> tuple[float, float]:
    """The interval of an Inception Score."""
    rows = weights(len(probabilities), times, seed)
    return around(value, np.array([inception(probabilities, row) for row in rows]), 1.0)
