"""The one sample type that every reader gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Sample:
    """One image of a hand, with what is known of its pose.

    Attributes:
        key: a name, unique in its set.
        image: (H, W, 3) uint8, RGB.
        joints_mm: (21, 3) camera-frame joints in mm, x right, y down, z forward; wrist, then thumb,
            index, middle, ring and little finger from base to tip. None without labels.
        intrinsics: (3, 3) K of the crop in pixels, the first pixel spanning 0 to 1. None without labels.
        right: handedness, None if unknown.
    """

    key: str
    image: np.ndarray
    joints_mm: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    right: bool | None = None
