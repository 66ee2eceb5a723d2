"""Square crops about a hand: which part of an image they show, and where points go with it.

Pixel coordinates have the first pixel spanning 0 to 1, so that one affine map takes points and K alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Square:
    """A square part of an image, in its pixels; it may reach beyond the image."""

    left: float
    top: float
    side: float


def square_about(box: np.ndarray, scale: float = 1.0) -> Square:
    """The square about a box (left, top, right, bottom): same centre, its side the box's longer one times `scale`."""
    left, top, right, bottom = (float(v) for v in box)
    side = max(right - left, bottom - top) * scale
    return Square((left + right - side) / 2, (top + bottom - side) / 2, side)


def crop_matrix(square: Square, size: int) -> np.ndarray:
    """The map (3, 3) float64 from the image's pixels to those of the square resized to `size`."""
    zoom = size / square.side
    return np.array([[zoom, 0, -zoom * square.left], [0, zoom, -zoom * square.top], [0, 0, 1]])


def cut(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """The square of an image, antialiased, black where it reaches beyond: (H, W, 3) -> (size, size, 3) uint8."""
    margin = 2 + math.ceil(2 * square.side / size)  # the bicubic filter looks this far beyond the square
    left, top = math.floor(square.left) - margin, math.floor(square.top) - margin
    extent = math.ceil(square.side) + 1 + 2 * margin
    part = Image.fromarray(image).crop((left, top, left + extent, top + extent))  # PIL pads with black
    x, y = square.left - left, square.top - top
    box = (x, y, x + square.side, y + square.side)
    return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC, box=box))


def move_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) through an affine map (3, 3)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]
