"""A sample's labels as JSON, both ways: what stands beside each image in tar shards.

    {"joints_mm": 21 x 3, "joints_px": 21 x 2, "K": 3 x 3, "valid": 21 x 0/1, "side": "left" | "right",
     "mirrored": true, "crop": 3 x 3, "mask": {"size": [H, W], "counts": "..."}, "key": "...", "extra": {...}}

Every entry may be missing. What is not finite is null. `joints_px` is there only where it is not the projection
of `joints_mm` through K. `key` is there only where a tar member cannot bear the sample's name. What a set of
someone else's has beside these entries counts as `extra`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import masks
from .sample import JOINTS, Sample, project

ENTRIES = ("joints_mm", "joints_px", "K", "valid", "side", "mirrored", "crop", "mask", "key", "extra")
SAME_PX = 1e-3
"""joints closer than this to their projection are not written: px"""


def to_json(sample: Sample) -> dict[str, Any]:
    """The labels of a sample as plain values, float32 in as many digits as give the same number back."""
    label: dict[str, Any] = {}
    if sample.joints_mm is not None:
        label["joints_mm"] = _plain(sample.joints_mm)
    if sample.joints_px is not None and not _is_projection(sample):
        label["joints_px"] = _plain(sample.joints_px)
    if sample.intrinsics is not None:
        label["K"] = _plain(sample.intrinsics)
    if sample.valid is not None:
        label["valid"] = [int(v) for v in sample.valid]
    if sample.right is not None:
        label["side"] = "right" if sample.right else "left"
    if sample.mirrored:
        label["mirrored"] = True
    if sample.crop is not None:
        label["crop"] = sample.crop.tolist()
    if sample.mask is not None:
        label["mask"] = masks.encode(sample.mask)
    if sample.extra:
        label["extra"] = _strict(sample.extra)
    return label


def from_json(label: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Sample`, but its image (and its key, if the label has none).

    Raises:
        ValueError: saying what is wrong with an entry.
    """
    if not isinstance(label, Mapping):
        raise ValueError(f"it holds a {type(label).__name__}, no entries by name")
    fields: dict[str, Any] = {
        "joints_mm": _array(label, "joints_mm", (JOINTS, 3)),
        "joints_px": _array(label, "joints_px", (JOINTS, 2)),
        "intrinsics": _array(label, "K", (3, 3)),
        "valid": _array(label, "valid", (JOINTS,), np.bool_),
        "crop": _array(label, "crop", (3, 3), np.float64),
        "mirrored": bool(label.get("mirrored", False)),
    }
    if fields["joints_px"] is None and fields["joints_mm"] is not None and fields["intrinsics"] is not None:
        fields["joints_px"] = _projection(fields["joints_mm"], fields["intrinsics"])
    if label.get("side") is not None:
        if label["side"] not in ("left", "right"):
            raise ValueError(f"its side is {label['side']!r}, neither left nor right")
        fields["right"] = label["side"] == "right"
    if label.get("mask") is not None:
        try:
            fields["mask"] = masks.decode(label["mask"])
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError("its mask is no {size, counts}") from e
    if label.get("key") is not None:
        fields["key"] = str(label["key"])
    extra = label.get("extra") or {}
    if not isinstance(extra, Mapping):
        raise ValueError(f"its extra is a {type(extra).__name__}, no entries by name")
    fields["extra"] = {k: v for k, v in label.items() if k not in ENTRIES} | dict(extra)
    return fields


def fault(sample: Sample) -> str | None:
    """What makes a sample's labels unusable, whatever they are used for; None if nothing does."""
    if sample.valid is not None and sample.valid.shape != (JOINTS,):
        return f"its valid is of shape {sample.valid.shape}, not ({JOINTS},)"
    counts = np.ones(JOINTS, bool) if sample.valid is None else sample.valid
    for name, joints, shape in (
        ("joints_mm", sample.joints_mm, (JOINTS, 3)),
        ("joints_px", sample.joints_px, (JOINTS, 2)),
    ):
        if joints is None:
            continue
        if joints.shape != shape:
            return f"its {name} is of shape {joints.shape}, not {shape}"
        bad = np.flatnonzero(counts & ~np.isfinite(joints).all(1))
        if len(bad):
            return f"its {name} of joint {bad[0]} is {joints[bad[0]].tolist()}"
    k = sample.intrinsics
    if k is not None:
        if k.shape != (3, 3) or not np.isfinite(k).all():
            return f"its K is {k.tolist()}, no finite 3 x 3 matrix"
        if min(k[0, 0], k[1, 1]) <= 0:
            return f"its K has the focal lengths {k[0, 0]:g} and {k[1, 1]:g}"
    return None


def _strict(values: Any) -> Any:
    """Plain values: arrays as lists, what is not finite as null."""
    return json.loads(json.dumps(values, default=lambda v: v.tolist()), parse_constant=lambda _: None)


def _plain(values: np.ndarray) -> list:
    """Nested lists; the digits are those of float32, not of the float64 that Python makes of it."""
    values = np.asarray(values, np.float32)
    wide = values.astype(str).astype(np.float64)
    return wide.tolist() if np.isfinite(wide).all() else _strict(wide)


def _array(label: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray | None:
    if label.get(name) is None:
        return None
    try:
        array = np.asarray(label[name], dtype)  # null becomes nan
    except (ValueError, TypeError) as e:
        raise ValueError(f"its {name} is no array of numbers") from e
    if array.shape != shape:
        raise ValueError(f"its {name} is of shape {array.shape}, not {shape}")
    return array


def _projection(joints_mm: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # joints that do not count may lie anywhere
        return project(joints_mm, intrinsics).astype(np.float32)


def _is_projection(sample: Sample) -> bool:
    if sample.joints_mm is None or sample.intrinsics is None or sample.joints_px is None:
        return False
    projected = _projection(sample.joints_mm, sample.intrinsics)
    return np.allclose(sample.joints_px, projected, rtol=0, atol=SAME_PX, equal_nan=True)
