"""How sure is a figure? 95 % bootstrap intervals of FID, KID, Inception Score and of means over images.

Images are drawn again with replacement, so a resampled set is the same images with other weights: how
often each was drawn. Every figure is written as a closed form of such weights, in float64:

- Fréchet distance: tr (S T)^(1/2) of two covariances S = X'X, T = Y'Y is the nuclear norm of X Y' (the sum of
  its singular values), so no matrix root is taken and few images cost little;
- squared MMD: the unbiased U-statistic, pairs of an image with itself left out however often it was drawn;
- Inception Score: exp of the difference of two entropies.

The distance of resampled sets is biased, since images are repeated; so intervals of FID and KID are those
of the deviations from the resampled mean, laid around the figure itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cogview.evaluation.metrics.accuracy import Figure, bootstrap_weights, figure

Array = NDArray[np.float64]
BLOCK = 1024  # rows of a kernel matrix at a time


def mean_figure(values: Array, times: int = 1000, seed: int = 0) -> Figure:
    """The mean of values of images (n,) with its bootstrap interval."""
    return figure(resampled_means(values, times, seed))


def resampled_means(values: Array, times: int, seed: int) -> Array:
    """The mean of values (n,), then the means of ``times`` resampled sets; (times + 1,)."""
    chance, n = np.random.default_rng(seed), len(values)
    drawn = [values[chance.integers(0, n, n)].mean() for _ in range(times)]
    return np.array([values.mean(), *drawn], dtype=np.float64)


def weights(count: int, times: int, seed: int) -> NDArray[np.float64]:
    """How often each of ``count`` images is drawn, (times, count)."""
    return bootstrap_weights(["-"] * count, times, seed)[1:]


def around(value: float, samples: Array, least: float = -np.inf) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the samples' deviations from their mean, laid around ``value``.

    Samples that are not numbers, sets of one image drawn again and again, are left out.
    """
    samples = samples[np.isfinite(samples)]
    low, high = np.percentile(samples - samples.mean(), (2.5, 97.5))
    return max(least, value + float(low)), value + float(high)


# ------------------------------------------------------------------------------------------------- FID


def frechet(
    real: Array, drawn: Array, real_weights: Array | None = None, drawn_weights: Array | None = None
) -> float:
    """Squared Fréchet distance of the Gaussians of two sets of features (n, d), (m, d), perhaps weighted."""
    (mean, spread), (other_mean, other) = _moments(real, real_weights), _moments(drawn, drawn_weights)
    common = np.linalg.svd(spread @ other.T, compute_uv=False).sum()
    distance = ((mean - other_mean) ** 2).sum() + (spread**2).sum() + (other**2).sum() - 2 * common
    return float(max(0.0, distance))


def _moments(features: Array, own: Array | None) -> tuple[Array, Array]:
    """The mean (d,) and a root R (at most d, d) of the unbiased covariance R'R."""
    own = np.ones(len(features)) if own is None else own
    kept = own > 0
    features, own = np.asarray(features, np.float64)[kept], own[kept]
    total = own.sum()
    mean: Array = own @ features / total
    root: Array = np.sqrt(own / (total - 1))[:, None] * (features - mean)
    return mean, root if len(root) <= root.shape[1] else np.asarray(np.linalg.qr(root, mode="r"))


def frechet_interval(real: Array, drawn: Array, value: float, times: int, seed: int) -> tuple[float, float]:
    """The interval of a Fréchet distance, both sets resampled."""
    pairs = zip(weights(len(real), times, seed), weights(len(drawn), times, seed + 1), strict=True)
    return around(value, np.array([frechet(real, drawn, a, b) for a, b in pairs]), 0.0)


# ------------------------------------------------------------------------------------------------- KID


def kernel(a: Array, b: Array) -> Array:
    """The cubic kernel (x.y / d + 1)^3 of Binkowski et al. (2018), (n, m)."""
    found: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return found


def mmd(
    real: Array, drawn: Array, real_weights: Array | None = None, drawn_weights: Array | None = None
) -> Array:
    """Unbiased squared MMD of features (n, d), (m, d) for each row of weights (times, n) and (times, m)."""
    real, drawn = np.asarray(real, np.float64), np.asarray(drawn, np.float64)
    a = np.ones((1, len(real))) if real_weights is None else real_weights
    b = np.ones((1, len(drawn))) if drawn_weights is None else drawn_weights
    across = np.zeros(len(a))
    for rows in _blocks(len(real)):
        across += ((a[:, rows] @ kernel(real[rows], drawn)) * b).sum(1)
    between: Array = across / (a.sum(1) * b.sum(1))
    return _within(real, a) + _within(drawn, b) - 2 * between


def _within(features: Array, own: Array) -> Array:
    """The mean kernel of two different images of a set, for each row of weights; nan where it has one."""
    total = np.zeros(len(own))
    for rows in _blocks(len(features)):
        part = kernel(features[rows], features)
        itself = part[np.arange(len(part)), np.arange(rows.start, rows.stop)]
        total += ((own[:, rows] @ part) * own).sum(1) - own[:, rows] ** 2 @ itself
    with np.errstate(invalid="ignore"):
        found: Array = total / (own.sum(1) ** 2 - (own**2).sum(1))
    return found


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def mmd_interval(real: Array, drawn: Array, value: float, times: int, seed: int) -> tuple[float, float]:
    """The interval of a squared MMD, both sets resampled."""
    return around(
        value, mmd(real, drawn, weights(len(real), times, seed), weights(len(drawn), times, seed + 1))
    )


# ------------------------------------------------------------------------------------------------- IS


def inception(probabilities: Array, own: Array | None = None) -> float:
    """exp of the mean divergence of an image's classes (n, c) from those of all, perhaps weighted."""
    probabilities = np.asarray(probabilities, np.float64)
    own = np.ones(len(probabilities)) if own is None else own
    share = own / own.sum()
    return float(np.exp(share @ _negentropy(probabilities) - _negentropy(share @ probabilities)))


def _negentropy(p: Array) -> Array:
    found: Array = (p * np.log(np.maximum(p, 1e-30))).sum(-1)
    return found


def inception_interval(probabilities: Array, value: float, times: int, seed: int) -> tuple[float, float]:
    """The interval of an Inception Score."""
    rows = weights(len(probabilities), times, seed)
    return around(value, np.array([inception(probabilities, own) for own in rows]), 1.0)
