"""HO-3D v3: right hands that hold objects, 640 x 480 (Hampali et al., CVPR 2020; arXiv 2107.00887).

Its pixels have their centre at integers (RealSense), so 0.5 is added to the principal point. Joints are
metres in OpenGL's camera frame (y up, z backward) and in MANO's order. The evaluation split tells the root
and the box of the hand alone. MANO files are not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import InputError
from . import plain_pickle
from .hand_set import PIXEL_CENTRE, CropOptions, Frame, HandSet, box_of, centred, reading
from .sample import JOINTS, project

ORDER = np.array([0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20])
"""where our joints are among theirs"""
FROM_OPENGL = np.array([1000.0, -1000.0, -1000.0])
"""to millimetres, y down and z forward"""
IMAGE_SIZE = (640, 480)


class HO3D(HandSet):
    """A split of HO-3D. `extra["index"]` is the line in the split's list, from 0."""

    SPLITS = ("train", "evaluation")
    DEFAULT_SPLIT: ClassVar = {"train": "train", "test": "evaluation"}

    def __init__(self, root: Path, spec: str, split: str, crop: CropOptions):
        super().__init__(root, spec, split, crop)
        listed = root / f"{split}.txt"
        with reading(listed, InputError):
            self._lines = np.array(listed.read_text().split(), np.str_)
        for line in self._lines:
            if line.count("/") != 1:
                raise InputError(f"'{listed}' has a line '{line}', which is not SEQUENCE/ID: fetch it again")
        for sequence in np.unique([line.partition("/")[0] for line in self._lines]):
            for folder in ("rgb", "meta"):
                self.need_folder(root / split / sequence / folder)
        self.need_any()

    def __len__(self) -> int:
        return len(self._lines)

    def group(self, index: int) -> str:
        return self.key(index).partition("/")[0]

    def key(self, index: int) -> str:
        return str(self._lines[index])

    def read_frame(self, index: int) -> Frame:
        sequence, _, number = self.key(index).partition("/")
        folder = self.root / self.split / sequence
        source = folder / "meta" / f"{number}.pkl"
        with reading(source):
            label = plain_pickle.load(source)
            joints, camera, box = (label.get(name) for name in ("handJoints3D", "camMat", "handBoundingBox"))
            joints_mm, valid = _joints(joints)
            if camera is None and valid.any():
                raise ValueError("camMat is None")
            intrinsics = np.eye(3) if camera is None else centred(np.reshape(camera, (3, 3)))
            with np.errstate(divide="ignore", invalid="ignore"):  # labels are checked afterwards
                joints_px = np.where(valid[:, None], project(joints_mm, intrinsics), 0)
            box = box_of(joints_px[valid]) if box is None or valid.all() else np.reshape(box, 4) + PIXEL_CENTRE
        return Frame(
            key=self.key(index),
            image=folder / "rgb" / f"{number}.jpg",
            image_size=IMAGE_SIZE,
            source=source,
            joints_mm=joints_mm,
            joints_px=joints_px,
            intrinsics=intrinsics,
            valid=valid,
            right=True,
            box=box,
            extra={"sequence": sequence, "frame": number, "index": index},
        )


def _joints(joints: object) -> tuple[np.ndarray, np.ndarray]:
    """Our joints (21, 3) in mm and which are known, from all of theirs, the root alone, or None."""
    known = np.zeros((0, 3)) if joints is None else np.asarray(joints, np.float64).reshape(-1, 3) * FROM_OPENGL
    if len(known) == JOINTS:
        return known[ORDER], np.ones(JOINTS, bool)
    if len(known) > 1:
        raise ValueError(f"handJoints3D has {len(known)} joints")
    out = np.zeros((JOINTS, 3))
    out[: len(known)] = known
    return out, np.arange(JOINTS) < len(known)
