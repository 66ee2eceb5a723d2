"""`ti-backbones data check`: is every image and label of a set sound?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from ..checkpoint import write_atomically
from ..errors import BrokenSample, InputError, NoHand
from .images import Samples, each
from .labels import fault
from .sample import JOINTS, Sample, project
from .spec import open_data

SHOWN = 20


@dataclass
class CheckConfig:
    """Read every image and label of a set, count them and name what is broken; exit code 1 if anything is."""

    spec: str
    """the data: embedded, folder:PATH, shards:PATH-or-pattern, dexycb:PATH?split=s0/train, ..."""
    json: Path | None = None
    """write the counts and all broken samples here"""
    tolerance: float = 1.0
    """how far a 2D joint may lie from the projection of its 3D joint, pixels"""
    workers: int = 2
    """processes that read"""


@dataclass
class Report:
    """What is in a set.

    Attributes:
        samples: that the set has. usable: that can be read and are sound.
        right, left, unknown: hands by side, after mirroring; mirrored: those that were.
        labelled: samples with 3D joints. joints: joints that count, in all.
        skipped: samples that show no hand and the like, by reason.
        sizes: images of each size, "width x height".
        broken: {"sample": its index and name, "problem": what is wrong}, by index.
    """

    spec: str
    samples: int
    usable: int = 0
    right: int = 0
    left: int = 0
    unknown: int = 0
    mirrored: int = 0
    labelled: int = 0
    joints: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)

    def table(self) -> str:
        """For a person to read."""
        sizes = sorted(self.sizes.items(), key=lambda s: -s[1])
        rows = {
            "samples": f"{self.samples}, of them usable {self.usable}",
            "hands": f"{self.right} right, {self.left} left, {self.unknown} unknown; {self.mirrored} mirrored",
            "with 3D joints": f"{self.labelled}; {self.joints} joints count",
            "image sizes": ", ".join(f"{size}: {count}" for size, count in sizes[:5])
            + (f", and {len(sizes) - 5} more" if len(sizes) > 5 else ""),
            "skipped": ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items()) or "none",
            "broken": str(len(self.broken) or "none"),
        }
        lines = [self.spec, *(f"  {name:14s}  {value}" for name, value in rows.items())]
        lines += [f"broken: {b['sample']}: {b['problem']}" for b in self.broken[:SHOWN]]
        if len(self.broken) > SHOWN:
            lines.append(f"... and {len(self.broken) - SHOWN} more: --json FILE lists all")
        return "\n".join(lines)


def check(config: CheckConfig) -> Report:
    """Walk a set.

    Raises:
        InputError: for a set that cannot be opened, or a file that cannot be written.
    """
    if not 0 < config.tolerance < np.inf:
        raise InputError(f"--tolerance is {config.tolerance}: it must be above 0")
    if config.workers < 0:
        raise InputError(f"--workers is {config.workers}: it must be 0 or more")
    samples = open_data(config.spec)
    n, seen, sizes = len(samples), {}, Counter()
    report = Report(config.spec, n, skipped=dict(getattr(samples, "skipped", {})))
    findings = each(_Findings(samples, config.tolerance), range(n), config.workers)
    for i, found in enumerate(tqdm(findings, total=n, desc="checking", unit="img", delay=2, leave=False)):
        if found.key in seen:
            found = found._replace(problem=f"sample {seen[found.key]} has the same name")
        elif found.key is not None:
            seen[found.key] = i
        _count(report, sizes, i, found)
    report.sizes = dict(sizes)
    if config.json is not None:
        write_atomically(config.json, json.dumps(asdict(report), indent=1).encode())
    return report


class _Finding(NamedTuple):
    """What is to say of one sample; no key if it could not be read."""

    problem: str | None = None
    absent: str | None = None
    key: str | None = None
    size: str = ""
    right: bool | None = None
    mirrored: bool = False
    joints: int | None = None


class _Findings(Dataset):
    """A set's findings, so that worker processes can make them."""

    def __init__(self, samples: Samples, tolerance: float):
        self.samples, self.tolerance = samples, tolerance

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> _Finding:
        try:
            sample = self.samples[index]
        except NoHand as e:
            return _Finding(absent=str(e))
        except BrokenSample as e:
            return _Finding(problem=str(e))
        height, width = sample.image.shape[:2]
        joints = None if sample.joints_mm is None else JOINTS if sample.valid is None else int(sample.valid.sum())
        where = f"{width} x {height}", sample.right, sample.mirrored, joints
        return _Finding(problem(sample, self.tolerance), None, sample.key, *where)


def problem(sample: Sample, tolerance: float = 1.0) -> str | None:
    """What is wrong with a sample, in words; None if nothing is.

    Args:
        tolerance: how far a 2D joint may lie from its 3D joint's projection, pixels.
    """
    if found := fault(sample):
        return found
    (height, width), k = sample.image.shape[:2], sample.intrinsics
    if sample.mask is not None and sample.mask.shape != (height, width):
        return f"its mask is of shape {sample.mask.shape}, its image {width} x {height}"
    if sample.crop is not None and not (np.isfinite(sample.crop).all() and abs(np.linalg.det(sample.crop)) > 0):
        return f"its crop matrix {sample.crop.tolist()} cannot be inverted"
    counts = np.ones(JOINTS, bool) if sample.valid is None else sample.valid
    if k is not None and not np.array_equal(k[2], [0, 0, 1]):
        return f"its K ends in {k[2].tolist()}, not 0, 0, 1"
    if sample.joints_mm is not None:
        behind = np.flatnonzero(counts & (sample.joints_mm[:, 2] <= 0))
        if len(behind):
            return f"joint {behind[0]} lies {-sample.joints_mm[behind[0], 2]:g} mm behind the camera"
    if sample.joints_px is None or not counts.any():
        return None
    px = sample.joints_px[counts]
    if sample.joints_mm is not None and k is not None:
        off = np.linalg.norm(project(sample.joints_mm[counts], k) - px, axis=1)
        if off.max() > tolerance:
            return f"joint {np.flatnonzero(counts)[off.argmax()]} lies {off.max():.2f} px beside its projection"
    if not ((px >= 0) & (px < [width, height])).all(1).any():
        box = ", ".join(f"{v:.0f}" for v in [*px.min(0), *px.max(0)])
        return f"the box of its joints, {box}, lies outside the {width} x {height} image"
    return None


def _count(report: Report, sizes: Counter[str], index: int, found: _Finding) -> None:
    if found.absent:
        report.skipped["shows no hand"] = report.skipped.get("shows no hand", 0) + 1
        return
    if found.problem:
        name = str(index) if found.key is None else f"{index} {found.key}"
        report.broken.append({"sample": name, "problem": found.problem})
    if found.key is None:
        return
    sizes[found.size] += 1
    report.usable += found.problem is None
    side = {None: "unknown", True: "right", False: "left"}[found.right]
    setattr(report, side, getattr(report, side) + 1)
    report.mirrored += found.mirrored
    report.labelled += found.joints is not None
    report.joints += found.joints or 0
