"""FreiHAND: right hands, 224 x 224 (Zimmermann et al., ICCV 2019).

Training shows each of its labelled frames in four versions: before a green screen (gs), and with the
background replaced in three ways (hom, sample, auto); image i has label i % 32560. Pixels are taken to have
their centre at integers (the official code draws projections straight onto the image), so 0.5 is added to
the principal point. Joints are metres in the camera frame and already in our order. MANO files are not needed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import InputError
from .hand_set import CropOptions, Frame, HandSet, box_of, centred, reading
from .sample import JOINTS, project

VERSIONS = ("gs", "hom", "sample", "auto")
IMAGE_SIZE = (224, 224)


class FreiHAND(HandSet):
    """A split of FreiHAND, in every version or in one. `extra["index"]` is the image's number."""

    SPLITS = ("training", "evaluation")
    DEFAULT_SPLIT: ClassVar = {"train": "training", "test": "evaluation"}
    OPTIONS: ClassVar = {"version": VERSIONS}

    def __init__(self, root: Path, spec: str, split: str, crop: CropOptions, version: str = ""):
        super().__init__(root, spec, split, crop)
        self.folder = root / split / "rgb"
        self.need_folder(self.folder)
        self._intrinsics = self._read("K", (3, 3))
        self._joints_m = self._read("xyz", (JOINTS, 3))
        count = len(self._joints_m)
        if len(self._intrinsics) != count:
            raise InputError(
                f"data '{spec}': {split}_K.json has {len(self._intrinsics)} entries, {split}_xyz.json {count}:"
                " fetch both again"
            )
        if split == "evaluation" and version not in ("", VERSIONS[0]):
            raise InputError(f"data '{spec}': the evaluation split has no version '{version}': leave it out")
        versions = [version or VERSIONS[0]] if split == "evaluation" else [version] if version else VERSIONS
        self._numbers = np.concatenate([np.arange(count) + count * VERSIONS.index(v) for v in versions])
        self._need_images()
        self.need_any()

    def __len__(self) -> int:
        return len(self._numbers)

    def group(self, index: int) -> str:
        return str(self._numbers[index] % len(self._joints_m))

    def key(self, index: int) -> str:
        return f"{self.split}/{self._numbers[index]:08d}"

    def read_frame(self, index: int) -> Frame:
        number = int(self._numbers[index])
        version, label = divmod(number, len(self._joints_m))
        joints_mm, intrinsics = self._joints_m[label] * 1000, centred(self._intrinsics[label])
        with np.errstate(divide="ignore", invalid="ignore"):  # labels are checked afterwards
            joints_px = project(joints_mm, intrinsics)
        return Frame(
            key=self.key(index),
            image=self.folder / f"{number:08d}.jpg",
            image_size=IMAGE_SIZE,
            source=self.root / f"{self.split}_xyz.json",
            joints_mm=joints_mm,
            joints_px=joints_px,
            intrinsics=intrinsics,
            valid=np.ones(JOINTS, bool),
            right=True,
            box=box_of(joints_px),
            extra={"version": VERSIONS[version], "label": label, "index": number},
        )

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.root / f"{self.split}_{name}.json"
        with reading(path, InputError):
            values = np.array(json.loads(path.read_bytes()), np.float64)
            if values.shape[1:] != shape and values.size:
                raise ValueError(f"its entries are {values.shape[1:]}, not {shape}")
        return values

    def _need_images(self) -> None:
        """A download that broke off is told now, and not one image after the other."""
        found = {entry.name for entry in os.scandir(self.folder)}
        missing = [i for i in self._numbers.tolist() if f"{i:08d}.jpg" not in found]
        if missing:
            one = " (or name one version=)" if self.split == "training" else ""
            raise InputError(
                f"data '{self.spec}': {len(missing)} of {len(self)} images are missing in '{self.folder}', the first"
                f" is {missing[0]:08d}.jpg: fetch the set again{one}"
            )
