"""InterHand2.6M: one or two hands in an image, many cameras (Moon et al., ECCV 2020).

A sample is one hand; an image of interacting hands gives two, the right one first. Pixels are taken to
have their centre at integers (the official code moves points through OpenCV), so 0.5 is added to the
principal point. Joints are millimetres in a world frame, X_camera = R (X - campos), each finger from tip
to base, the wrist last; right 0-20, left 21-41. MANO files are not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .hand_set import CropOptions, Frame, HandSet, box_of, centred, pinhole, reading, sound_intrinsics
from .sample import JOINTS, project

ORDER = np.array([20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16])
"""where our joints are among one hand's"""
PLACEHOLDER = 1.0
"""all three coordinates of a joint that was never annotated"""
HAND_TYPES = {"right": (0,), "left": (1,), "interacting": (0, 1)}
"""the hands of each type: 0 right, 1 left"""


@dataclass
class _Worlds:
    """joint_3d.json. Attributes: row of (capture, frame); joints (F, 2, 21, 3) in mm, whether each is annotated."""

    row: dict[tuple[str, str], int]
    joints: np.ndarray
    annotated: np.ndarray


@dataclass
class _Cameras:
    """camera.json. Attributes: row of (capture, camera); positions (C, 3) in mm, rotations and K (C, 3, 3)."""

    row: dict[tuple[str, str], int]
    positions: np.ndarray
    rotations: np.ndarray
    intrinsics: np.ndarray


class InterHand(HandSet):
    """A split of InterHand2.6M; hands without a valid root, or with no other valid joint, are left out and counted.

    A joint is valid if data.json (annotated and inside this image) and joint_3d.json (annotated at all) both
    say so; the crop is about all joints that are annotated. `extra["index"]` is the annotation's id.
    """

    SPLITS = ("train", "val", "test")
    DEFAULT_SPLIT: ClassVar = {"train": "train", "test": "test"}
    OPTIONS: ClassVar = {"fps": ("5", "30")}

    def __init__(self, root: Path, spec: str, split: str, crop: CropOptions, fps: str = ""):
        super().__init__(root / f"InterHand2.6M_{fps}fps_batch1" if fps else root, spec, split, crop)
        self._images = self.root / "images" / split
        for folder in (self.root / "annotations" / split, self._images):
            self.need_folder(folder)
        with tqdm(total=3, desc="reading annotations", unit="file", delay=2, leave=False) as bar:
            self._worlds = _read_worlds(self._file("joint_3d"))
            bar.update()
            self._cameras = _read_cameras(self._file("camera"))
            bar.update()
            self._read_annotations()
        for capture in sorted({name.split(b"/")[0].decode() for name in self._names}):
            self.need_folder(self._images / capture)
        self.need_any()

    def __len__(self) -> int:
        return len(self._hands)

    def group(self, index: int) -> str:
        return str(self._annotations[self._hands[index, 0], 2])

    def key(self, index: int) -> str:
        row, left = self._hands[index]
        return f"{self._name(row).rpartition('.')[0]}_{'left' if left else 'right'}"

    def read_frame(self, index: int) -> Frame:
        row, left = self._hands[index].tolist()
        name = self._name(row)
        world, camera, subject, width, height, hand_type_valid, number = self._annotations[row].tolist()
        annotated = self._worlds.annotated[world, left][ORDER]
        joints = self._worlds.joints[world, left][ORDER] - self._cameras.positions[camera]
        joints_mm = np.where(annotated[:, None], joints @ self._cameras.rotations[camera].T, [0, 0, PLACEHOLDER])
        joints_px = project(joints_mm, self._cameras.intrinsics[camera])
        valid = (self._valid[row, left] & self._worlds.annotated[world, left])[ORDER]
        *_, capture, sequence, camera_folder, file = name.split("/")
        return Frame(
            key=self.key(index),
            image=self._images / name,
            image_size=(width, height),
            source=self._file("joint_3d"),
            joints_mm=joints_mm,
            joints_px=joints_px,
            intrinsics=self._cameras.intrinsics[camera],
            valid=valid & valid[0],
            right=not left,
            box=box_of(joints_px[annotated]),
            extra={
                "subject": str(subject),
                "capture": capture,
                "sequence": sequence,
                "camera": camera_folder.removeprefix("cam"),
                "frame": file.partition(".")[0].removeprefix("image"),
                "hand_type": "interacting" if self._interacting[row] else "left" if left else "right",
                "hand_type_valid": bool(hand_type_valid),
                "index": number,
            },
        )

    def _name(self, row: int) -> str:
        return bytes(self._names[row]).decode()

    def _file(self, name: str) -> Path:
        return self.root / "annotations" / self.split / f"InterHand2.6M_{self.split}_{name}.json"

    def _read_annotations(self) -> None:
        """data.json as arrays: what is kept of an image must be small, for there are more than a million."""
        path = self._file("data")
        with reading(path, InputError):
            content = _read_json(path, _without_lists)
            images = {image["id"]: image for image in content["images"]}
            names, rows, hands, valid = [], [], [], []
            for annotation in tqdm(content["annotations"], desc="indexing", unit="image", delay=2, leave=False):
                image = images[annotation["image_id"]]
                for hand in HAND_TYPES[annotation["hand_type"]]:
                    hands.append((len(names), hand))
                valid.append(annotation["joint_valid"])
                if image["file_name"].count("/") != 3:
                    raise ValueError(f"file_name '{image['file_name']}' is not Capture/sequence/camera/image")
                names.append(image["file_name"].encode())
                rows.append(self._row(annotation, image))
            self._names, self._annotations = np.array(names, bytes), np.array(rows, np.int64).reshape(-1, 7)
            self._valid = np.frombuffer(b"".join(valid), bool).reshape(-1, 2, JOINTS)
            both = np.array(hands, np.int32).reshape(-1, 2)
            self._interacting = np.bincount(both[:, 0], minlength=len(names)) > 1
            self._hands = self._with_joints(both)

    def _row(self, annotation: dict, image: dict) -> tuple[int, ...]:
        """World frame, camera, subject, width, height, hand_type_valid and id of an annotation."""
        capture, frame, camera = (str(image[name]) for name in ("capture", "frame_idx", "camera"))
        world, seen_from = self._worlds.row.get((capture, frame)), self._cameras.row.get((capture, camera))
        if world is None or seen_from is None:
            file, what = ("joint_3d", f"frame {frame}") if world is None else ("camera", f"camera {camera}")
            raise InputError(
                f"'{self._file(file)}' has no {what} of capture {capture}, which '{self._file('data')}' names:"
                " fetch both again"
            )
        size = int(image["width"]), int(image["height"])
        return (world, seen_from, int(image["subject"]), *size, int(annotation["hand_type_valid"]), annotation["id"])

    def _with_joints(self, hands: np.ndarray) -> np.ndarray:
        """Of hands (N, 2) of annotation and side, those with a pose to learn; the others are counted."""
        row, left = hands.T
        valid = self._valid[row, left] & self._worlds.annotated[self._annotations[row, 0], left]
        rooted = valid[:, ORDER[0]]
        posed = rooted & (valid.sum(1) > 1)
        if self.crop.keep_absent:
            return hands
        self.skip("without a valid root", int((~rooted).sum()))
        self.skip("without a valid joint but the root", int((rooted & ~posed).sum()))
        return hands[posed]


def _read_json(path: Path, hook: Callable[[dict], Any] | None = None) -> Any:
    return json.loads(path.read_bytes(), object_hook=hook)


def _without_lists(entry: dict) -> dict:
    """An annotation as it comes from the parser, made small at once: as lists a million take many gigabytes."""
    if "joint_valid" in entry:
        entry.pop("bbox", None)
        entry["joint_valid"] = np.array(entry["joint_valid"], bool).reshape(2 * JOINTS).tobytes()
    return entry


def _read_worlds(path: Path) -> _Worlds:
    row, joints, valid = {}, [], []
    with reading(path, InputError):
        for capture, frames in _read_json(path).items():
            for frame, entry in frames.items():
                row[capture, frame] = len(joints)
                joints.append(entry["world_coord"])
                valid.append(entry["joint_valid"])
        world = np.array(joints, np.float64).reshape(-1, 2, JOINTS, 3)
        annotated = np.array(valid, bool).reshape(-1, 2, JOINTS) & (world != PLACEHOLDER).any(-1)
    return _Worlds(row, world, annotated)


def _read_cameras(path: Path) -> _Cameras:
    row, positions, rotations, intrinsics = {}, [], [], []
    with reading(path, InputError):
        for capture, cameras in _read_json(path).items():
            for camera, position in cameras["campos"].items():
                row[capture, camera] = len(positions)
                positions.append(position)
                rotations.append(cameras["camrot"][camera])
                k = centred(pinhole(*cameras["focal"][camera], *cameras["princpt"][camera]))
                if not sound_intrinsics(k):
                    focal = cameras["focal"][camera]
                    raise InputError(
                        f"'{path}': the focal length of camera {camera} of capture {capture} is {focal}:"
                        " it must be positive: fetch it again"
                    )
                intrinsics.append(k)
        arrays = (np.array(a, np.float64) for a in (positions, rotations, intrinsics))
        shapes = (-1, 3), (-1, 3, 3), (-1, 3, 3)
        return _Cameras(row, *(a.reshape(s) for a, s in zip(arrays, shapes, strict=True)))
