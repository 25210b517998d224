"""What is cut out and how it is pasted, against definitions by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogview.errors import CogViewError
from cogview.generation import editing
from cogview.generation.editing import (
    checked_mask,
    crop_region,
    mask_of_boxes,
    mask_of_image,
    paste,
    read_box,
    released_crop_region,
    soften,
)

SIDES = st.integers(1, 40)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), bool)
    mask[top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = True
    return mask


@given(mask=masks(), crop=st.sampled_from(["auto", "tight", "whole"]), smallest=SIDES)
@settings(max_examples=150, deadline=None)
def test_the_part_holds_the_mask_and_lies_in_the_picture(
    mask: np.ndarray, crop: editing.Crop, smallest: int
) -> None:
    area = crop_region(mask, crop, smallest)
    top, left, bottom, right = area.box
    assert 0 <= top < bottom <= mask.shape[0] and 0 <= left < right <= mask.shape[1]
    assert mask[top:bottom, left:right].sum() == mask.sum()
    tall, wide = area.inner[2] - area.inner[0], area.inner[3] - area.inner[1]
    side = max(int(tall * 20 / 14), int(wide * 20 / 14), smallest if crop == "auto" else 0)
    if crop == "whole":
        assert area.shape == mask.shape
    else:
        assert area.shape == tuple(min(side, limit) for limit in mask.shape)


@given(mask=masks(), rows=st.integers(1, 12), columns=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_a_token_is_masked_if_any_of_its_pixels_is(mask: np.ndarray, rows: int, columns: int) -> None:
    found = crop_region(mask, "whole").grid_mask((rows, columns))
    height, width = mask.shape
    for i in range(rows):
        for j in range(columns):
            covered = [
                mask[y, x]
                for y in range(height)
                for x in range(width)
                if y * rows < (i + 1) * height
                and (y + 1) * rows > i * height
                and x * columns < (j + 1) * width
                and (x + 1) * columns > j * width
            ]
            assert found[i, j] == any(covered)


@given(mask=masks(), feather=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_outside_nothing_changes_and_inside_something_does(mask: np.ndarray, feather: int) -> None:
    rng = np.random.default_rng(int(mask.sum()))
    old = Image.fromarray(rng.integers(0, 100, (*mask.shape, 3), dtype=np.uint8))
    area = crop_region(mask, "tight")
    new = Image.new("RGB", area.shape[::-1], (200, 200, 200))
    result = np.asarray(paste(old, new, area, feather))
    assert (result[~mask] == np.asarray(old)[~mask]).all()
    assert (result[mask] > np.asarray(old)[mask]).all()
    assert (result[mask] == 200).all(-1).any()  # fully new somewhere


def test_the_seam_rises_from_the_border_of_the_mask_only() -> None:
    mask = np.zeros((1, 12), bool)
    mask[0, 3:] = True  # touches the picture's right side
    assert soften(mask, 4)[0].tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    assert (soften(mask, 0) == mask).all()


def test_transparent_pictures_keep_what_is_not_masked() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    area = crop_region(mask, "whole")
    result = np.asarray(paste(Image.fromarray(pixels), Image.new("RGB", (8, 8), "red"), area, 1))
    assert (result[~mask] == pixels[~mask]).all() and (result[mask] == (255, 0, 0, 255)).all()


def test_masks_in_all_forms() -> None:
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert mask_of_image(grey).tolist() == [[False, False, True, True]]
    layers = Image.fromarray(np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], dtype=np.uint8))
    assert mask_of_image(layers).tolist() == [[False, True]]
    boxes = mask_of_boxes([(0, 0, 1, 1), (2, 1, 4, 2)], (4, 2))
    assert boxes.tolist() == [[True, False, False, False], [False, False, True, True]]
    assert read_box("25%,0, 75%,50%", (40, 20)) == (10, 0, 30, 10)
    assert read_box("1,2,3,4", (40, 20)) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "text", ["1,2,3", "a,0,1,1", "0,x%,1,1", "", "1.5,0,3,4", "nan%,0,1,1", "inf%,0,1,1"]
)
def test_a_box_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CogViewError, match="x0,y0,x1,y1"):
        read_box(text, (10, 10))


@pytest.mark.parametrize("box", [(0, 0, 11, 5), (-1, 0, 5, 5), (5, 5, 5, 9), (6, 2, 4, 4)])
def test_a_box_outside(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(CogViewError, match="is not inside the image of 10 x 8"):
        mask_of_boxes([box], (10, 8))


def test_masks_that_make_no_sense() -> None:
    with pytest.raises(CogViewError, match=r"mask\.png has 3 x 2 pixels, the image 2 x 3"):
        checked_mask(np.ones((2, 3)), (2, 3), where="mask.png")
    with pytest.raises(CogViewError, match="empty"):
        checked_mask(np.zeros((2, 3)), (3, 2))
    with pytest.raises(CogViewError, match="whole image"):
        checked_mask(np.ones((2, 3)), (3, 2))


def test_the_releases_frame_centres_on_the_last_masked_pixel() -> None:
    """Rows 100 to 199 and columns 10 to 110 of 480: a side of 144, the middles 149.5 and 60."""
    found = released_crop_region((100 / 480, 10 / 480, 200 / 480, 111 / 480))
    assert found.inner == (100, 10, 200, 111)
    side = int(101 * 20 / 14)
    top, left = (100 + 199 - side) // 2, max(0, (10 + 110 - side) // 2)
    assert found.box == (top, left, top + side, left + side) == (77, 0, 221, 144)


@pytest.mark.parametrize("seed", range(50))
def test_the_releases_frame_against_its_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (sorted(rng.choice(480, 2, replace=False).tolist()) for _ in range(2))
    found = released_crop_region(
        (top / 480 + 1e-9, left / 480 + 1e-9, bottom / 480 + 1e-9, right / 480 + 1e-9)
    )
    side = max(int((bottom - top) * 20 / 14), int((right - left) * 20 / 14))
    if side >= 480:
        assert found.box == (0, 0, 480, 480)
        return
    ends = [((top + bottom - 1) - side) // 2, ((left + right - 1) - side) // 2]
    ends = [min(max(0, start), 480 - side) for start in ends]
    assert found.box == (ends[0], ends[1], ends[0] + side, ends[1] + side)
