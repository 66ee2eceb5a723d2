"""What the readers of labelled hand sets share: from a frame's labels and its image file to a `Sample`."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import BrokenSample, InputError, NoHand, first_line
from .crop import crop_matrix, cut, move_points, square_about
from .images import decode
from .sample import JOINTS, Sample

PIXEL_CENTRE = 0.5
"""what is added to coordinates of a set that puts a pixel's centre at an integer"""

LARGEST = 4
"""no hand is larger than so many images"""
UNREADABLE = (OSError, ValueError, TypeError, IndexError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
"""what damaged files raise"""


@dataclass(frozen=True)
class CropOptions:
    """How samples are cut out.

    Attributes:
        size: side of the crops, pixels.
        scale: the square's side by the longer side of the box of the joints.
        mirror: whether left hands are shown as right hands.
        keep_absent: whether frames that show no hand are kept, whole and with no valid joint.
    """

    size: int = 224
    scale: float = 1.2
    mirror: bool = True
    keep_absent: bool = False


@dataclass
class Frame:
    """The labels of one hand, in the pixels of its image file and in this package's conventions.

    Attributes:
        key: the frame's name, unique in its set.
        image: the image file.
        image_size: (width, height) that the labels are for.
        source: the file that the labels are from.
        joints_mm: (21, 3) float64, in `Sample`'s order and axes.
        joints_px: (21, 2) float64, the first pixel spanning 0 to 1.
        intrinsics: (3, 3) float64, likewise.
        valid: (21,) bool; none is where no hand is labelled.
        right: whether it is a right hand.
        box: (4,) left, top, right, bottom of the hand.
        extra: see `Sample`; plain numbers and strings.
    """

    key: str
    image: Path
    image_size: tuple[int, int]
    source: Path
    joints_mm: np.ndarray
    joints_px: np.ndarray
    intrinsics: np.ndarray
    valid: np.ndarray
    right: bool
    box: np.ndarray
    extra: dict[str, Any] = field(default_factory=dict)


class HandSet(ABC):
    """A split of a labelled hand set, as a sequence of `Sample`s.

    Opening reads annotation files; a frame's own files are read when it is asked for.

    Attributes:
        spec: what was opened.
        skipped: how many hands were left out at opening, by reason.

    Raises:
        InputError: on opening, if the set is not there, not whole or cannot be read.
    """

    SPLITS: ClassVar[tuple[str, ...]]
    """names of its splits"""
    DEFAULT_SPLIT: ClassVar[dict[str, str]]
    """its split for "train" and for "test" """
    OPTIONS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """its own options, each with its values"""

    def __init__(self, root: Path, spec: str, split: str, crop: CropOptions):
        self.root, self.spec, self.split, self.crop = root, spec, split, crop
        self.skipped: dict[str, int] = {}
        self.need_folder(root)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The frame's name, from which its files can be found; reads no file."""

    @abstractmethod
    def read_frame(self, index: int) -> Frame:
        """The labels of a hand, unchecked.

        Raises:
            BrokenSample: if its files cannot be read.
        """

    @abstractmethod
    def group(self, index: int) -> str:
        """What a hand shares with those that must not be parted from it (subject, sequence, ...); reads no file."""

    def labels(self, index: int) -> Frame:
        """The labels of a hand, checked, without its image.

        Raises:
            BrokenSample: naming the file, if it cannot be read or holds impossible values.
        """
        frame = self.read_frame(range(len(self))[index])
        unsound = _unsound(frame) if frame.valid.any() else None
        if unsound:
            raise BrokenSample(f"label '{frame.source}' of {frame.key}: {unsound}: repair it, or remove the frame")
        return frame

    def __getitem__(self, index: int) -> Sample:
        """The sample.

        Raises:
            BrokenSample: naming the file, if an image or label cannot be read or used.
            NoHand: if the frame shows none, and such frames are not kept.
        """
        frame = self.labels(index)
        absent = _absence(frame)
        if absent and not self.crop.keep_absent:
            raise NoHand(f"image '{frame.image}' shows no hand ({absent}): add absent=keep to see it")
        width, height = frame.image_size
        image = _read_image(frame)
        square = square_about(np.array([0, 0, width, height])) if absent else square_about(frame.box, self.crop.scale)
        matrix = crop_matrix(square, self.crop.size)
        valid = np.zeros(JOINTS, bool) if absent else frame.valid
        sample = Sample(
            key=frame.key,
            image=cut(image, square, self.crop.size),
            joints_mm=np.nan_to_num(frame.joints_mm, posinf=0, neginf=0).astype(np.float32),
            joints_px=np.nan_to_num(move_points(matrix, frame.joints_px), posinf=0, neginf=0).astype(np.float32),
            intrinsics=(matrix @ frame.intrinsics).astype(np.float32),
            valid=valid,
            right=frame.right,
            crop=matrix,
            extra=frame.extra,
        )
        return sample.mirror() if self.crop.mirror and not frame.right else sample

    def skip(self, reason: str, count: int = 1) -> None:
        """Count what is left out."""
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def need_folder(self, folder: Path) -> None:
        """Raise InputError if a folder is not there."""
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "is missing"
            raise InputError(f"data '{self.spec}': '{folder}' {problem}: give the folder of the whole unpacked set")

    def need_any(self) -> None:
        """Raise InputError if no hand is left."""
        if not len(self):
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            raise InputError(
                f"data '{self.spec}': no hand in split '{self.split}' of '{self.root}'"
                f"{f' (skipped: {reasons})' if reasons else ''}: give another split, or fetch the set again"
            )


@contextmanager
def reading(path: Path, error: type[InputError] = BrokenSample) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as e:
        raise error(f"'{path}' is missing: fetch the set again") from e
    except KeyError as e:
        raise error(f"'{path}' has no {e}: fetch it again") from e
    except UNREADABLE as e:
        raise error(f"'{path}' cannot be read ({first_line(e, 120)}): fetch it again") from e


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """K (3, 3) float64."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def centred(intrinsics: np.ndarray) -> np.ndarray:
    """K for the first pixel spanning 0 to 1, from one that puts its centre at 0."""
    shift = np.array([[1, 0, PIXEL_CENTRE], [0, 1, PIXEL_CENTRE], [0, 0, 1]])
    return shift @ np.asarray(intrinsics, np.float64)


def box_of(points: np.ndarray) -> np.ndarray:
    """The box (left, top, right, bottom) of points (N, 2); of none, an empty one."""
    if not len(points):
        return np.zeros(4)
    return np.concatenate([points.min(0), points.max(0)])


def sound_intrinsics(intrinsics: np.ndarray) -> bool:
    """Whether K (..., 3, 3) is finite with positive focal lengths."""
    return bool(np.isfinite(intrinsics).all() and (intrinsics[..., [0, 1], [0, 1]] > 0).all())


def _unsound(frame: Frame) -> str | None:
    """What is impossible about the labels of a hand."""
    if not sound_intrinsics(frame.intrinsics):
        fx, fy = frame.intrinsics[[0, 1], [0, 1]]
        return f"its focal lengths are {fx:g} and {fy:g} px"
    for name, points in (("joint", frame.joints_mm), ("2D joint", frame.joints_px)):
        for j in np.flatnonzero(frame.valid):
            if not np.isfinite(points[j]).all():
                return f"{name} {j} is {points[j].tolist()}"
    behind = np.flatnonzero(frame.valid & (frame.joints_mm[:, 2] <= 0))
    if len(behind):
        return f"joint {behind[0]} lies behind the camera (z = {frame.joints_mm[behind[0], 2]:g} mm)"
    if not 1 <= np.max(frame.box[2:] - frame.box[:2]) <= LARGEST * max(frame.image_size):  # nan is neither
        width, height = frame.image_size
        return f"the box of the hand is {frame.box.tolist()} px, in an image of {width} x {height}"
    return None


def _absence(frame: Frame) -> str | None:
    """Why an image shows no hand."""
    if not frame.valid.any():
        return "none is labelled"
    (left, top, right, bottom), (width, height) = frame.box, frame.image_size
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        box = ", ".join(f"{v:.0f}" for v in frame.box)
        return f"its box {box} lies outside the {width} x {height} image"
    return None


def _read_image(frame: Frame) -> np.ndarray:
    with reading(frame.image):
        data = frame.image.read_bytes()
    image = decode(data, str(frame.image))
    height, width = image.shape[:2]
    if (width, height) != frame.image_size:
        labelled = " x ".join(map(str, frame.image_size))
        raise BrokenSample(f"image '{frame.image}' is {width} x {height}, its labels {labelled}: fetch it again")
    return image
