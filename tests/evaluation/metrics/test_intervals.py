"""Closed forms against scipy, torchmetrics and loops; intervals that cover; corruptions in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import linalg

from cogview.evaluation.metrics import intervals
from cogview.evaluation.metrics.fid import (
    DistributionPlan,
    compare_pictures,
    fid,
    inception_score,
    kid,
)
from cogview.evaluation.metrics.image_sets import open_set


def features(rng: np.random.Generator, count: int, width: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Correlated normal features."""
    mix = np.random.default_rng(5).normal(size=(width, width))
    return rng.normal(shift, 1, size=(count, width)) @ mix + shift


@pytest.mark.parametrize(("n", "m", "width"), [(40, 50, 4), (9, 7, 30), (60, 12, 20)])
def test_the_nuclear_norm_gives_the_frechet_distance(
    rng: np.random.Generator, n: int, m: int, width: int
) -> None:
    """More pictures than features, fewer, and one of each; scipy takes the root of the product."""
    a, b = features(rng, n, width), features(rng, m, width, 0.4)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(s @ t).real if min(n, m) > width else None
    found = intervals.frechet(a, b)
    if root is not None:
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)
        assert found == pytest.approx(expected, rel=1e-9)
    assert found == pytest.approx(fid(a, b), rel=1e-3)
    assert intervals.frechet(a, a) == pytest.approx(0, abs=1e-9 * np.trace(s))


def test_two_gaussians_have_their_known_distance(rng: np.random.Generator) -> None:
    """Of N(0, 1) and N(3, 4) per axis: 9 + (1 - 2)^2."""
    n = 200_001
    normal = np.sort(rng.normal(size=n))
    normal = (normal - normal.mean()) / normal.std(ddof=1)
    a, b = normal[:, None], 3 + 2 * normal[:, None]
    assert intervals.frechet(a, b) == pytest.approx(10, rel=1e-9)
    assert fid(np.hstack([a, a[::-1]]), np.hstack([b, b[::-1]])) == pytest.approx(
        intervals.frechet(np.hstack([a, a[::-1]]), np.hstack([b, b[::-1]])), rel=1e-3
    )


def repeated(rows: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(rows, own.astype(int), axis=0)


def test_weights_are_repetitions(rng: np.random.Generator) -> None:
    a, b = features(rng, 12, 5), features(rng, 9, 5, 0.3)
    u, v = (intervals.weights(len(x), 1, 3)[0] for x in (a, b))
    assert u.sum() == 12 and (u != 1).any()
    assert intervals.frechet(a, b, u, v) == pytest.approx(
        intervals.frechet(repeated(a, u), repeated(b, v)), rel=1e-9
    )
    p = rng.dirichlet(np.ones(6), size=12)
    assert intervals.inception(p, u) == pytest.approx(intervals.inception(repeated(p, u)), rel=1e-12)


def test_the_squared_mmd_leaves_a_picture_and_itself_out(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "BLOCK", 5)
    a, b = features(rng, 12, 5), features(rng, 9, 5, 0.3)
    plain = intervals.mmd(a, b)[0]
    assert plain == pytest.approx(_loops(a, b, np.ones(12), np.ones(9)), rel=1e-9)
    u, v = intervals.weights(12, 2, 3), intervals.weights(9, 2, 4)
    for row, found in enumerate(intervals.mmd(a, b, u, v)):
        assert found == pytest.approx(_loops(a, b, u[row], v[row]), rel=1e-9)
    half = a[:9]
    whole = DistributionPlan(subsets=1, subset_size=99)
    assert kid(half, b, whole).value == pytest.approx(intervals.mmd(half, b)[0], rel=1e-3)


def _loops(a: NDArray[Any], b: NDArray[Any], u: NDArray[Any], v: NDArray[Any]) -> float:
    def near(x: Any, y: Any) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(x: Any, own: Any) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        total = sum(own[i] * own[j] * near(x[i], x[j]) for i, j in pairs)
        return float(total / sum(own[i] * own[j] for i, j in pairs))

    across = sum(u[i] * v[j] * near(a[i], b[j]) for i in range(len(a)) for j in range(len(b)))
    return within(a, u) + within(b, v) - 2 * float(across) / float(u.sum() * v.sum())


def test_resampled_sets_of_one_picture_are_left_out(rng: np.random.Generator) -> None:
    """Of three pictures every ninth resampled set repeats one, and has no pair."""
    low, high = intervals.mmd_interval(features(rng, 3, 6), features(rng, 3, 6, 1.0), 0.5, 200, 0)
    assert np.isfinite([low, high]).all() and low < 0.5 < high


def test_the_inception_score_is_torchmetrics(rng: np.random.Generator) -> None:
    p = rng.dirichlet(np.ones(8) / 3, size=50)
    expected = inception_score(p, DistributionPlan(splits=1)).value
    assert intervals.inception(p) == pytest.approx(expected, rel=1e-6)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    """Of 200 samples of 80 about 95 % cover the true mean."""
    hits = 0
    for trial in range(200):
        found = intervals.mean_figure(np.random.default_rng(trial).exponential(size=80), 300, trial)
        hits += found.low <= 1 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_intervals_shrink_with_more_pictures_and_hold_the_figure(rng: np.random.Generator) -> None:
    widths = []
    for n in (40, 160):
        a, b = features(rng, n, 3), features(rng, n, 3, 0.5)
        value = intervals.frechet(a, b)
        low, high = intervals.frechet_interval(a, b, value, 200, 0)
        assert 0 <= low < value < high
        assert intervals.frechet_interval(a, b, value, 200, 0) == (low, high)
        widths.append((high - low) / value)
    assert widths[1] < 0.8 * widths[0]


# ------------------------------------------------------------------------------------- corruptions


class Filters:
    """Features of a fixed random convolution: means and deviations of its maps in four quarters."""

    name, fingerprint, size = "Filters", "0" * 8, 32

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 12, 5, 2), torch.nn.Conv2d(12, 12, 3)

    @torch.no_grad()
    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        maps = self.second(self.first(x).relu())
        found = torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1)
        return found.numpy(), found[:, :5].softmax(1).numpy()


def picture(chance: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (32, 32), tuple(chance.integers(180, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, r = chance.integers(4, 28, 3).tolist()
        colour = tuple(chance.integers(0, 200, 3).tolist())
        pen.ellipse((x - r // 4, y - r // 4, x + r // 4, y + r // 4), colour)
    return image


def blurred(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.7 * strength))


def noisy(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    noise = chance.normal(0, 15 * strength, (32, 32, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def torn(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    """A quarter, a half or all of the 64 patches of 4 x 4 pixels change places."""
    boxes = [(x, y, x + 4, y + 4) for x in range(0, 32, 4) for y in range(0, 32, 4)]
    moved = chance.permutation(len(boxes))[: (16, 32, 64)[strength - 1]].tolist()
    result = image.copy()
    for to, origin in zip(moved, [*moved[1:], *moved[:1]], strict=True):
        result.paste(image.crop(boxes[origin]), boxes[to])
    return result


def folder(place: Path, pictures: list[Image.Image]) -> Path:
    place.mkdir()
    for i, image in enumerate(pictures):
        image.save(place / f"{i:03d}.png")
    return place


def test_real_is_near_real_and_corruptions_are_ordered_by_strength(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    pictures = [picture(chance) for _ in range(240)]
    real = open_set(folder(tmp_path / "real", pictures[:120]))
    plan = DistributionPlan(canvas=32, subsets=10, bootstrap=20)

    def measured(name: str, other: list[Image.Image]) -> dict[str, float]:
        where = open_set(folder(tmp_path / name, other))
        report = compare_pictures(real, where, plan, Filters(), tmp_path / "work")
        assert report is not None
        found = report.figures["Filters-KID-0"]
        assert found.low is not None and found.high is not None and found.low < found.high
        return {key: own.value for key, own in report.figures.items()}

    same = measured("same", pictures[:120])
    other = measured("other", pictures[120:])
    assert same["Filters-FID-0"] == pytest.approx(0, abs=1e-6)
    assert abs(same["Filters-KID-0"]) < 1e-2 and abs(other["Filters-KID-0"]) < 1e-2
    for corrupt in (blurred, noisy, torn):
        rising = [other]
        for strength in (1, 2, 3):
            spoiled = [corrupt(image, strength, chance) for image in pictures[120:]]
            rising.append(measured(f"{corrupt.__name__}-{strength}", spoiled))
        for metric in ("Filters-FID-0", "Filters-KID-0"):
            values = [own[metric] for own in rising]
            assert values == sorted(values), (corrupt.__name__, metric, values)
            assert values[-1] > 2 * abs(values[0])
