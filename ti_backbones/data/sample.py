"""The one sample type that every reader gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

JOINTS = 21
"""wrist, then thumb, index, middle, ring and little finger, each from base to tip"""


@dataclass
class Sample:
    """One image of a hand, with what is known of its pose.

    Pixel coordinates have the first pixel spanning 0 to 1: its centre lies at 0.5.

    Attributes:
        key: the frame's name, unique in its set.
        image: (H, W, 3) uint8, RGB.
        joints_mm: (21, 3) float32 camera-frame joints in mm, x right, y down, z forward, in the order of
            `JOINTS`. None without labels.
        joints_px: (21, 2) float32 joints in pixels of `image`. None without labels.
        intrinsics: (3, 3) float32 K of `image` in pixels. None without labels.
        valid: (21,) bool, joints whose labels count. None without labels.
        right: whether the image shows a right hand, after any mirroring; None if unknown.
        mirrored: whether the image and its labels are mirrored against the file.
        crop: (3, 3) float64, from pixels of the file's image to pixels of `image`. None if it is the identity.
        mask: (H, W) bool, where the hand is seen. None if unknown.
        extra: whatever else the set says, by name (subject, camera, identity, seed, ...).
    """

    key: str
    image: np.ndarray
    joints_mm: np.ndarray | None = None
    joints_px: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    valid: np.ndarray | None = None
    right: bool | None = None
    mirrored: bool = False
    crop: np.ndarray | None = None
    mask: np.ndarray | None = None
    extra: dict = field(default_factory=dict)

    def mirror(self) -> Sample:
        """The sample seen in a mirror: image flipped left to right, x of every label negated, the other hand.

        K keeps its positive focal lengths; its principal point moves to the mirrored place.
        """
        width = self.image.shape[1]
        left, edge = np.array([-1, 1], np.float32), np.array([width, 0], np.float32)
        flip = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])

        def if_known(f, value):
            return None if value is None else f(value)

        return replace(
            self,
            image=np.ascontiguousarray(self.image[:, ::-1]),
            joints_mm=if_known(lambda p: p * np.array([-1, 1, 1], np.float32), self.joints_mm),
            joints_px=if_known(lambda p: p * left + edge, self.joints_px),
            intrinsics=if_known(lambda k: (flip @ k @ np.diag([-1.0, 1, 1])).astype(k.dtype), self.intrinsics),
            right=if_known(lambda right: not right, self.right),
            mirrored=not self.mirrored,
            crop=flip @ (np.eye(3) if self.crop is None else self.crop),
            mask=if_known(lambda m: np.ascontiguousarray(m[:, ::-1]), self.mask),
        )


def project(joints_mm: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Pixel coordinates (N, 2) of camera-frame points (N, 3) in mm, through K."""
    p = joints_mm @ intrinsics.T
    return p[:, :2] / p[:, 2:]
