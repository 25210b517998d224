"""Backgrounds removed from discs whose true coverage is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cogview.pipelines.background import NEAR, ground_colour, without_background

SIZE, TIMES = 48, 8


Colour = tuple[int, int, int]


def disc(ground: Colour, colour: Colour, hole: bool) -> tuple[Image.Image, NDArray[np.float64]]:
    """An antialiased disc, perhaps with a hole of the ground's colour; its coverage (height, width)."""
    y, x = np.mgrid[: SIZE * TIMES, : SIZE * TIMES] / TIMES
    distance = np.hypot(x - SIZE / 2, y - SIZE / 2)
    inside = (distance < 18) & ~(hole & (distance < 8))
    covered = inside.reshape(SIZE, TIMES, SIZE, TIMES).mean(axis=(1, 3))
    pixels = covered[..., None] * colour + (1 - covered[..., None]) * ground
    return Image.fromarray(pixels.round().astype(np.uint8)), covered


@pytest.mark.parametrize("ground", [(255, 255, 255), (250, 246, 240), (20, 30, 90)])
def test_coverage_and_colour_are_found_again(ground: tuple[int, int, int]) -> None:
    image, covered = disc(ground, (200, 40, 60), hole=False)
    found = without_background(image)
    assert found is not None and found.mode == "RGBA"
    pixels = np.asarray(found).astype(float)
    assert np.abs(pixels[..., 3] / 255 - covered).max() < 0.12
    assert np.abs(pixels[covered > 0.5][:, :3] - (200, 40, 60)).max() < 40


def test_what_the_border_does_not_reach_stays(ground: tuple[int, int, int] = (255, 255, 255)) -> None:
    image, _ = disc(ground, (200, 40, 60), hole=True)
    found = without_background(image)
    assert found is not None
    assert found.getpixel((SIZE // 2, SIZE // 2)) == (255, 255, 255, 255)
    assert found.getpixel((1, 1)) == (255, 255, 255, 0)


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3), st.booleans())
def test_over_its_old_ground_it_looks_as_before(
    ground: tuple[int, int, int], colour: tuple[int, int, int], hole: bool
) -> None:
    image, _ = disc(ground, colour, hole)
    found = without_background(image)
    assert found is not None
    page = Image.new("RGBA", image.size, ground)
    page.alpha_composite(found)
    difference = np.asarray(page.convert("RGB")).astype(int) - np.asarray(image)
    assert np.abs(difference).max() <= NEAR + 4


def test_paths_that_wind_are_followed() -> None:
    """A spiral of ground between walls: every pixel of it is joined with the border."""
    wall = np.zeros((41, 41), bool)
    for ring in range(0, 20, 2):
        wall[ring, ring : 41 - ring] = wall[40 - ring, ring : 41 - ring] = True
        wall[ring : 41 - ring, ring] = wall[ring : 41 - ring, 40 - ring] = True
        gap = ring + 1 if ring % 4 else 39 - ring
        wall[gap, ring] = False
    pixels = np.where(wall[..., None], (0, 0, 0), (255, 255, 255)).astype(np.uint8)
    image = Image.new("RGB", (61, 61), "white")
    image.paste(Image.fromarray(pixels), (10, 10))
    found = without_background(image)
    assert found is not None
    alpha = np.asarray(found)[10:51, 10:51, 3]
    assert (alpha[~wall] == 0).all() and (alpha[wall] == 255).all()


def test_scenes_have_no_ground() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (
        ground_colour(Image.fromarray(noise)) is None and without_background(Image.fromarray(noise)) is None
    )
