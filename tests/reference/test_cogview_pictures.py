"""Saved pictures against files that the released code wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.reference.cogview_pictures import grid, released_picture, stretch

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"


def test_a_grid_and_a_picture_are_the_recorded_ones() -> None:
    run = load_file(FIXTURES / "save_image.safetensors")
    assert np.array_equal(np.asarray(released_picture(run["input"])), run["grid_u8"].numpy())
    for alone in (run["input"][0], run["input"][:1]):
        assert np.array_equal(np.asarray(released_picture(alone)), run["single_u8"].numpy())


@pytest.mark.parametrize(("count", "columns"), [(1, 8), (3, 8), (8, 8), (9, 8), (17, 4), (5, 1)])
def test_every_picture_stands_in_its_place(count: int, columns: int) -> None:
    images = torch.rand(count, 3, 4, 6) + 0.1
    sheet = grid(images, columns)
    if count == 1:
        assert torch.equal(sheet, images[0])
        return
    wide = min(columns, count)
    rows = (count + wide - 1) // wide
    expected = torch.zeros(3, rows * 6 + 2, wide * 8 + 2)
    for i, image in enumerate(images):
        top, left = 2 + i // wide * 6, 2 + i % wide * 8
        expected[:, top : top + 4, left : left + 6] = image
    assert torch.equal(sheet, expected)


def test_stretching_is_joint_and_survives_one_colour() -> None:
    images = torch.tensor([[0.2, 0.4], [0.3, 1.2]])
    torch.testing.assert_close(stretch(images), torch.tensor([[0.0, 0.2], [0.1, 1.0]]))
    assert stretch(torch.full((3, 2, 2), 0.7)).eq(0).all()
