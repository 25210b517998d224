"""Colours of boxes: names against the corpus's rule, and drawn boxes before all kinds of backgrounds."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cogview.evaluation.metrics.colours import NAMES, Pixels, box_colour, name_numbers, shares

PAINTS = {"red": "#e03131", "yellow": "#fcc419", "green": "#40b84a", "blue": "#2f6fff", "black": "#2e2e2e"}


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((255, 0, 0), "red"), ((255, 192, 192), "pink"), ((255, 128, 0), "orange"), ((128, 64, 0), "brown"),
        ((255, 255, 0), "yellow"), ((0, 255, 0), "green"), ((0, 208, 208), "cyan"), ((0, 0, 255), "blue"),
        ((128, 0, 255), "purple"), ((255, 0, 160), "pink"), ((0, 0, 0), "black"), ((128, 128, 128), "gray"),
        ((255, 255, 255), "white"), ((60, 10, 40), "purple"),
    ],
)  # fmt: skip
def test_everyday_names(colour: tuple[int, int, int], name: str) -> None:
    assert NAMES[int(name_numbers(np.array([colour], np.uint8))[0])] == name


def test_hues_follow_the_colour_wheel() -> None:
    """Full colours of every hue: the names' bounds, measured independently by colorsys."""
    order = [(12, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (252, "blue")]
    order += [(305, "purple"), (345, "pink"), (361, "red")]
    for degree in range(0, 360):
        colour = [round(255 * part) for part in colorsys.hls_to_rgb((degree + 0.5) / 360, 0.5, 1)]
        expected = next(name for limit, name in order if degree + 0.5 < limit)
        assert NAMES[int(name_numbers(np.array([colour], np.uint8))[0])] == expected


def test_shares_add_up() -> None:
    pixels = np.array([(255, 0, 0)] * 3 + [(0, 0, 255)], np.uint8)
    assert shares(pixels) == {"red": 0.75, "blue": 0.25}


def background(kind: str) -> Image.Image:
    if kind == "gradient":
        column = np.linspace((250, 120, 120), (255, 220, 220), 128).round().astype(np.uint8)
        return Image.fromarray(np.repeat(column[:, None], 128, axis=1))
    return Image.new("RGB", (128, 128), kind)


@pytest.mark.parametrize("kind", ["white", "#8ed68a", "#141b3d", "gradient"])
@pytest.mark.parametrize("name", list(PAINTS))
def test_a_thing_has_its_colour_before_any_background(kind: str, name: str) -> None:
    image = background(kind)
    ImageDraw.Draw(image).ellipse((30, 40, 90, 100), PAINTS[name], outline="#333333", width=2)
    assert box_colour(np.asarray(image), (30, 40, 90, 100)) == name


def test_a_box_beyond_the_picture_is_cut_and_an_empty_one_has_no_colour() -> None:
    picture: Pixels = np.full((20, 20, 3), (255, 0, 0), np.uint8)
    assert box_colour(picture, (-5, -5, 40, 40)) == "red"
    assert box_colour(picture, (5, 5, 5, 9)) is None
