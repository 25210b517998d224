"""Contact sheets, and what notebooks show."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cogview import CogViewError, contact_sheet
from cogview.pipelines.sheets import GAP


def test_images_stand_in_rows() -> None:
    images = [Image.new("RGB", (8, 6), (10 * number, 0, 0)) for number in range(5)]
    sheet = np.asarray(contact_sheet(images, columns=3, zoom=2))
    assert sheet.shape == (2 * (12 + GAP) + GAP, 3 * (16 + GAP) + GAP, 3)
    for number in range(5):
        top, left = GAP + number // 3 * (12 + GAP), GAP + number % 3 * (16 + GAP)
        assert (sheet[top : top + 12, left : left + 16, 0] == 10 * number).all()
    assert (sheet[-12:, -16:] == 255).all()  # no sixth image


def test_columns_make_about_a_square_and_sizes_are_one() -> None:
    images = [Image.new("RGB", (8, 8)), *(Image.new("RGB", (16, 16)) for _ in range(8))]
    assert contact_sheet(images).size == (3 * (8 + GAP) + GAP, 3 * (8 + GAP) + GAP)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert contact_sheet([clear]).getpixel((GAP + 4, GAP + 4)) == (255, 255, 255)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(CogViewError, match="no image"):
        contact_sheet([])
    with pytest.raises(CogViewError, match="at least 1"):
        contact_sheet([Image.new("RGB", (8, 8))], columns=0)
    with pytest.raises(CogViewError, match="64,000,000"):
        contact_sheet([Image.new("RGB", (8, 8))], zoom=2000)
