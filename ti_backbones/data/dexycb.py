"""DexYCB: 10 subjects x 100 sequences x 8 cameras, 640 x 480 (Chao et al., CVPR 2021; dex-ycb-toolkit).

Its pixels have their centre at integers (RealSense), so 0.5 is added to the principal point and to
`joint_2d`. Joints are metres in the camera frame and already in our order. MANO files are not needed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from tqdm import tqdm

from ..errors import BrokenSample, InputError, first_line
from .hand_set import PIXEL_CENTRE, CropOptions, Frame, HandSet, box_of, centred, pinhole, reading, sound_intrinsics
from .sample import JOINTS

SUBJECTS, SEQUENCES, CAMERAS = range(10), range(100), range(8)
IMAGE_SIZE = (640, 480)

Parts = tuple[list[int], list[int], list[int]]


def parts(split: str) -> Parts:
    """The subjects, sequences of a subject and cameras of a split such as "s0/train", by place in sorted order.

    s0 is the default; in s1, s2, s3 the subjects, cameras and grasped objects of test are unseen in training.
    """
    setup, _, part = split.partition("/")
    subjects, sequences, cameras = list(SUBJECTS), list(SEQUENCES), list(CAMERAS)
    if setup == "s0":
        sequences = [i for i in SEQUENCES if (i % 5 == 4) == (part != "train")]
        subjects = {"train": subjects, "val": [0, 1], "test": [2, 3, 4, 5, 6, 7, 8, 9]}[part]
    elif setup == "s1":
        subjects = {"train": [0, 1, 2, 3, 4, 5, 9], "val": [6], "test": [7, 8]}[part]
    elif setup == "s2":
        cameras = {"train": [0, 1, 2, 3, 4, 5], "val": [6], "test": [7]}[part]
    else:
        objects = {"train": set(range(20)) - {3, 7, 11, 15, 19}, "val": {3, 19}, "test": {7, 11, 15}}[part]
        sequences = [i for i in SEQUENCES if i // 5 in objects]
    return subjects, sequences, cameras


class DexYCB(HandSet):
    """A split of DexYCB; frames whose hand is not annotated are left out and counted.

    `extra["index"]` is a frame's number in the official evaluation, which counts the absent ones too.
    """

    SPLITS = tuple(f"{setup}/{part}" for setup in ("s0", "s1", "s2", "s3") for part in ("train", "val", "test"))
    DEFAULT_SPLIT: ClassVar = {"train": "s0/train", "test": "s0/test"}

    def __init__(self, root: Path, spec: str, split: str, crop: CropOptions):
        super().__init__(root, spec, split, crop)
        subjects, sequences, self._cameras = parts(split)
        self._serials, self._intrinsics = self._read_cameras()
        self._sequences: list[tuple[str, str]] = []  # "subject/sequence", side
        rows, place = [], 0
        everything = [s for subject in self._subjects(subjects) for s in self._select(subject, sequences)]
        for name in tqdm(everything, desc="indexing", unit="sequence", delay=2, leave=False):
            side, present = self._read_sequence(name)
            camera, frame = np.nonzero(np.ones_like(present))  # cameras outside, frames inside, as officially
            row = np.stack([np.full_like(frame, len(self._sequences)), camera, frame, place + np.arange(frame.size)], 1)
            place += frame.size
            self._sequences.append((name, side))
            self.skip("without a hand", 0 if crop.keep_absent else int((~present).sum()))
            rows.append(row if crop.keep_absent else row[present.ravel()])
        self._index = np.concatenate(rows).astype(np.int32)  # sequence, camera of the split, frame, official number
        self.need_any()

    def __len__(self) -> int:
        return len(self._index)

    def group(self, index: int) -> str:
        return self._sequences[self._index[index, 0]][0].partition("/")[0]

    def key(self, index: int) -> str:
        sequence, camera, number, _ = self._index[index]
        return f"{self._sequences[sequence][0]}/{self._serials[self._cameras[camera]]}/{number:06d}"

    def read_frame(self, index: int) -> Frame:
        sequence, camera, number, place = self._index[index].tolist()
        (name, side), camera = self._sequences[sequence], self._cameras[camera]
        folder = self.root / name / self._serials[camera]
        source = folder / f"labels_{number:06d}.npz"
        joints, points = _read_joints(source)
        present = not (joints == -1).all()
        subject, _, take = name.partition("/")
        return Frame(
            key=self.key(index),
            image=folder / f"color_{number:06d}.jpg",
            image_size=IMAGE_SIZE,
            source=source,
            joints_mm=joints * 1000,
            joints_px=points + PIXEL_CENTRE,
            intrinsics=self._intrinsics[camera],
            valid=np.full(JOINTS, present),
            right=side == "right",
            box=box_of(points + PIXEL_CENTRE) if present else np.zeros(4),
            extra={
                "subject": subject,
                "sequence": take,
                "camera": self._serials[camera],
                "frame": number,
                "index": place,
            },
        )

    def _read_cameras(self) -> tuple[list[str], np.ndarray]:
        """Serials, sorted, and K (8, 3, 3) of each."""
        folder = self.root / "calibration" / "intrinsics"
        self.need_folder(folder)
        files = sorted(folder.glob("*_640x480.yml"))
        self._need_count(folder, len(files), len(CAMERAS), "cameras (SERIAL_640x480.yml)")
        intrinsics = []
        for path in files:
            with reading(path, InputError):
                color = _read_yaml(path)["color"]
                intrinsics.append(centred(pinhole(*(float(color[n]) for n in ("fx", "fy", "ppx", "ppy")))))
            if not sound_intrinsics(intrinsics[-1]):
                raise InputError(
                    f"'{path}' holds fx = {color['fx']}, fy = {color['fy']}: focal lengths are positive: fetch it again"
                )
        return [path.name.partition("_")[0] for path in files], np.stack(intrinsics)

    def _subjects(self, numbers: list[int]) -> list[str]:
        names = sorted(p.name for p in self.root.iterdir() if re.match(r"\d{8}-", p.name) and p.is_dir())
        self._need_count(self.root, len(names), len(SUBJECTS), "subjects (20200709-subject-01, ...)")
        return [names[i] for i in numbers]

    def _select(self, subject: str, numbers: list[int]) -> list[str]:
        folder = self.root / subject
        names = sorted(p.name for p in folder.iterdir() if re.match(r"\d{8}_", p.name) and p.is_dir())
        self._need_count(folder, len(names), len(SEQUENCES), "sequences")
        return [f"{subject}/{names[i]}" for i in numbers]

    def _need_count(self, folder: Path, found: int, count: int, what: str) -> None:
        """Splits go by place in sorted order: with a part missing they would be others."""
        if found != count:
            raise InputError(
                f"data '{self.spec}': '{folder}' has {found} of {count} {what}: unpack all of the set's archives"
            )

    def _read_sequence(self, name: str) -> tuple[str, np.ndarray]:
        """The side of a sequence's hand, and where it is annotated, (cameras of the split, frames) bool."""
        folder = self.root / name
        there = set(os.listdir(folder))
        for camera in self._cameras:
            if self._serials[camera] not in there:
                self.need_folder(folder / self._serials[camera])
        path = folder / "meta.yml"
        with reading(path, InputError):
            meta = _read_yaml(path)
            frames, side = int(meta["num_frames"]), meta["mano_sides"][0]
            if frames < 1 or side not in ("left", "right"):
                raise ValueError(f"num_frames is {frames}, mano_sides[0] is {side}")
        path = folder / "pose.npz"
        if path.name not in there:
            return side, self._annotated(folder, frames)
        with reading(path, InputError), np.load(path) as f:
            pose = f["pose_m"]
            if pose.shape != (frames, 1, 51):
                raise ValueError(f"pose_m is {pose.shape}, not ({frames}, 1, 51)")
        return side, np.repeat((pose != 0).any((1, 2))[None], len(self._cameras), 0)

    def _annotated(self, folder: Path, frames: int) -> np.ndarray:
        """The same from the label of every frame, where there is no pose.npz."""
        present = np.empty((len(self._cameras), frames), bool)
        for row, camera in enumerate(self._cameras):
            for frame in range(frames):
                path = folder / self._serials[camera] / f"labels_{frame:06d}.npz"
                joints, _ = _read_joints(path, InputError)
                present[row, frame] = not (joints == -1).all()
        return present


def _read_joints(path: Path, error: type[InputError] = BrokenSample) -> tuple[np.ndarray, np.ndarray]:
    """joint_3d (21, 3) in metres and joint_2d (21, 2) of a label, float64."""
    with reading(path, error), np.load(path) as f:
        joints, points = f["joint_3d"], f["joint_2d"]
        if joints.shape != (1, JOINTS, 3) or points.shape != (1, JOINTS, 2):
            raise ValueError(f"joint_3d is {joints.shape}, joint_2d {points.shape}")
        return joints[0].astype(np.float64), points[0].astype(np.float64)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Plain values; DexYCB's calibration files also hold tuples with a Python tag."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as e:
        raise ValueError(first_line(e)) from e
