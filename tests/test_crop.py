"""Crops: where they lie, what they show, and that points go with them to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_backbones.data.crop import Square, crop_matrix, cut, move_points, square_about


def test_the_square_about_a_box_by_hand():
    # 100 wide, 60 high, centre (150, 230): 1.2 x 100 = 120 a side
    assert square_about(np.array([100, 200, 200, 260]), 1.2) == Square(90, 170, 120)
    matrix = crop_matrix(Square(90, 170, 120), 240)  # twice as large
    assert matrix.tolist() == [[2, 0, -180], [0, 2, -340], [0, 0, 1]]
    assert move_points(matrix, np.array([[90, 170], [210, 290], [150.25, 230]])).tolist() == [
        [0, 0],
        [240, 240],
        [120.5, 120],
    ]


def test_a_crop_on_the_grid_is_the_image_itself_and_black_beyond():
    image = np.random.default_rng(0).integers(1, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(cut(image, Square(3, 5, 10), 10), image[5:15, 3:13])
    beyond = cut(image, Square(-4, 12, 12), 12)
    assert np.array_equal(beyond[:8, 4:], image[12:20, :8])
    assert not beyond[8:].any()
    assert not beyond[:, :4].any()
    assert not cut(image, Square(100, 100, 10), 10).any()


@settings(deadline=None)
@given(left=st.floats(5, 25), top=st.floats(5, 25), side=st.floats(20, 90), size=st.integers(16, 128))
def test_a_ramp_stays_a_ramp_in_the_place_the_matrix_says(left: float, top: float, side: float, size: int):
    width = 127
    ramp = 2 * (np.arange(width, dtype=np.uint8) + 0.5)  # the value at x is 2 x, without rounding
    image = np.zeros((width, width, 3), np.uint8)
    image[..., 0], image[..., 1] = ramp, ramp[:, None]
    got = cut(image, square := Square(left, top, side), size)
    centres = np.arange(size) + 0.5
    points = np.stack([centres, centres], 1)
    x, y = (move_points(np.linalg.inv(crop_matrix(square, size)), points) * 2).T
    assert np.abs(got[size // 2, :, 0] - x).max() < 0.6  # half a pixel would be 1, rounding is half of that
    assert np.abs(got[:, size // 2, 1] - y).max() < 0.6


@pytest.mark.parametrize("side", [7.0, 64.5, 200.0])
def test_a_crop_has_the_size_asked_for(side: float):
    image = np.full((40, 50, 3), 200, np.uint8)
    assert cut(image, Square(10.3, -5.7, side), 33).shape == (33, 33, 3)
