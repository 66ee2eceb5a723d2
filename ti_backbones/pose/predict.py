"""`ti-backbones predict`: joints of hands in images, as JSON and drawings.

An image is taken for a crop about one hand, as in training: a square about the hand, 1.2 times its box. Joints are
root-relative, in mm, camera axes (x right, y down, z forward). Where the hand is in space an image alone does not say:
drawings show the joints without perspective, fitted into the crop as training crops are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoint import replacing, write_atomically
from ..data import Sample, open_data
from ..data.draw import tile
from ..data.folder import SUFFIXES
from ..data.images import decode, square
from ..distributed import fast_bf16, find_device
from ..errors import BrokenSample, InputError
from .model import PoseModel, load_pose_model

MIRROR = np.array([-1, 1, 1], np.float32)
CROP_SCALE = 1.2  # of training crops: side of the square by the longer side of the joints' box


@dataclass
class PredictConfig:
    """Predict the joints of hands in images, and draw them."""

    run: Path
    """a pose folder that finetune wrote"""
    images: str
    """an image, a folder of images, or a data spec; each image a crop about one hand"""
    out: Path
    """folder for joints.json and drawings/"""
    side: Literal["right", "left"] = "right"
    """the hands' side, where the data does not say: left hands are mirrored for the model, and joints mirrored back"""
    draw: bool = True
    """draw the joints onto the images"""
    mano: Path | None = None
    """your own MANO_RIGHT.pkl, for a model that gives MANO parameters"""
    precision: Literal["auto", "bf16", "fp32"] = "fp32"
    """of the encoder; auto: bf16 where the device has units for it"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""
    batch: int = 64
    """images a pass"""


def predict(config: PredictConfig) -> int:
    """Predict and write; images that cannot be read are named in joints.json.

    Returns:
        how many hands were predicted.

    Raises:
        InputError: for a model or images that cannot be used.
    """
    if config.batch < 1:
        raise InputError(f"--batch is {config.batch}: it must be at least 1")
    device = find_device(config.device)
    model = load_pose_model(config.run, config.mano).to(device)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device))
    hands: dict[str, Any] = {}
    broken: dict[str, str] = {}
    pending: list[Sample] = []
    samples, count = _samples(config, broken)
    for sample in tqdm(samples, total=count, desc="predicting", unit="img", delay=2, leave=False):
        pending.append(sample)
        if len(pending) == config.batch:
            hands |= _finish(config, model, pending, bf16)
            pending = []
    hands |= _finish(config, model, pending, bf16)
    if not hands:
        first = next(iter(broken.values()), "there is none")
        raise InputError(f"no image of '{config.images}' can be used: {first}")
    content = {"unit": "mm", "axes": "x right, y down, z forward", "root": "wrist", "hands": hands, "broken": broken}
    write_atomically(config.out / "joints.json", (json.dumps(content, indent=1) + "\n").encode())
    return len(hands)


def _samples(config: PredictConfig, broken: dict[str, str]) -> tuple[Iterator[Sample], int]:
    path = Path(config.images).expanduser()
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"'{path}' is no image: give {', '.join(sorted(SUFFIXES))}, a folder or a data spec")
        return iter([Sample(path.name, decode(path.read_bytes(), str(path)))]), 1
    if ":" not in config.images and not path.exists() and not config.images.startswith("embedded"):
        raise InputError(f"no image or folder '{path}': give one that exists, or a data spec")
    data = open_data(f"folder:{path}" if path.is_dir() else config.images, "test")

    def each() -> Iterator[Sample]:
        for index in range(len(data)):
            try:
                yield data[index]
            except BrokenSample as e:
                broken[str(index)] = str(e)

    return each(), len(data)


def _finish(config: PredictConfig, model: PoseModel, samples: list[Sample], bf16: bool) -> dict[str, Any]:
    """Predict a few hands and draw them: name -> side and joints."""
    if not samples:
        return {}
    left = [_is_left(s, config.side) for s in samples]
    flip = [is_left and not s.mirrored for is_left, s in zip(left, samples, strict=True)]
    images = [square(s.image, model.spec.size) for s in samples]
    images = torch.stack([image.flip(-1) if f else image for image, f in zip(images, flip, strict=True)])
    device = model.image_mean.device
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        joints = model(images.to(device)).float().cpu().numpy()
    if not np.isfinite(joints).all():
        raise InputError(
            "predictions are not finite: fine-tune again with a lower --recipe.lr, or use --precision fp32"
        )
    hands = {}
    for sample, is_left, points in zip(samples, left, joints, strict=True):
        shown = points * MIRROR if is_left and not sample.mirrored else points
        original = points * MIRROR if is_left else points
        side = "left" if is_left else "right"
        hands[sample.key] = {"side": side, "joints_mm": original.astype(float).round(3).tolist()}
        if config.draw:
            _draw(config.out / "drawings" / drawing(sample.key), sample, shown)
    return hands


def drawing(key: str) -> str:
    """The file, below the drawings, of a sample; keys come from files' names and from tars.

    >>> drawing("a/b.jpg"), drawing("../../b.0001")
    ('a/b.jpg.png', 'b.0001.png')
    """
    return "/".join(part for part in re.split(r"[/\\\\]", key) if part not in ("", ".", "..")) + ".png"


def _is_left(sample: Sample, default: str) -> bool:
    """Whether the hand in the file is a left one."""
    if sample.right is None:
        return default == "left"
    return sample.right == sample.mirrored


def _draw(path: Path, sample: Sample, joints: np.ndarray) -> None:
    height, width = sample.image.shape[:2]
    side = min(height, width)
    low, high = joints[:, :2].min(0), joints[:, :2].max(0)
    zoom = side / CROP_SCALE / max(float((high - low).max()), 1e-6)
    pixels = (joints[:, :2] - (low + high) / 2) * zoom + np.array([width / 2, height / 2])
    with replacing(path) as [staged]:
        tile(sample.image, max(side, 256), pixels).save(staged)
