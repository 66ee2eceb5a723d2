"""Ratios of paired runs: two things that run one after the other, in turns which one first, so that a slow phase of the
machine hits both. A ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import contextlib
import math
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from ti_backbones.data import open_data
from ti_backbones.distributed import fast_bf16

SHORTEST = 0.5  # seconds: what takes less is repeated within a measurement
IMAGES = 72  # of the embedded test set, in `Settings.images`


@dataclass
class Settings:
    """How to measure. quick: tiny sizes, which prove that it runs. folder: for files, emptied at the end.
    model: of inference.
    """

    pairs: int
    device: torch.device
    quick: bool
    folder: Path
    model: str = "resnet50"

    @cached_property
    def bf16(self) -> bool:
        """Whether steps run in bfloat16: where the device has units for it, as in the package's own commands."""
        return fast_bf16(self.device)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self, enabled: bool = True) -> contextlib.AbstractContextManager:
        """bfloat16 in the body, where it is fast."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled and self.bf16)

    @cached_property
    def images(self) -> Path:
        """A folder of JPEGs."""
        folder, samples = self.folder / "images", open_data("embedded", "test")
        folder.mkdir()
        for i in range(IMAGES):
            Image.fromarray(samples[i].image).save(folder / f"{i:03d}.jpg", quality=90)
        return folder


@dataclass(frozen=True)
class Bar:
    """What a ratio must reach: `at_least`, `at_most` or `below` (strictly) a number."""

    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None

    @property
    def _sides(self) -> list[tuple[str, Callable[[float, float], bool], float]]:
        """To four digits, rounded to the strict side, so that a ratio is judged by the numbers that are printed."""
        sides = (
            (">=", operator.ge, self.at_least, ROUND_CEILING),
            ("<=", operator.le, self.at_most, ROUND_FLOOR),
            ("<", operator.lt, self.below, ROUND_FLOOR),
        )
        return [
            (sign, holds, float(Context(prec=4, rounding=way).create_decimal(repr(value))))
            for sign, holds, value, way in sides
            if value is not None
        ]

    def met(self, ratio: float) -> bool:
        return all(holds(ratio, value) for _, holds, value in self._sides)

    def __str__(self) -> str:
        return ", ".join(f"{sign} {value:.4g}" for sign, _, value in self._sides)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the benchmark. what, against: the two that were measured.
        unit: of the next two, such as s or images/s. ours, theirs: a value for each pair.
        bar: None if the ratio is only reported.
        extra: what else the JSON holds.
    """

    name: str
    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float]
    bar: Bar | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, pair by pair."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        return None if self.bar is None else self.bar.met(self.ratio)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "against": self.against,
            "ratio": self.ratio,
            "spread": [min(self.ratios), max(self.ratios)],
            "pairs": len(self.ratios),
            "must_reach": "" if self.bar is None else str(self.bar),
            "met": self.met,
            "unit": self.unit,
            "medians": {"what": statistics.median(self.ours), "against": statistics.median(self.theirs)},
            "values": {"what": self.ours, "against": self.theirs},
            **self.extra,
        }


Run = Callable[[], Any]


def seconds(run: Run, device: torch.device, repeats: int = 1) -> float:
    """Seconds of one of `repeats` calls, the device's own work included."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise(device)
    return (time.perf_counter() - began) / repeats


def synchronise(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(runs: Sequence[Run], settings: Settings, label: str) -> list[list[float]]:
    """Seconds of each of several runs, warmed up, `settings.pairs` times in turn, forwards and backwards."""
    device, count = settings.device, len(runs)
    times: list[list[float]] = [[] for _ in runs]
    with tqdm(total=(settings.pairs + 1) * count, desc=label, unit="run", leave=False, smoothing=0) as bar:
        repeats = []
        for run in runs:
            once = seconds(run, device)
            if once < 10 * SHORTEST and not settings.quick:  # the first call may have prepared what the next ones find
                once = seconds(run, device)
            repeats.append(1 if settings.quick else math.ceil(SHORTEST / once))
            bar.update()
        for i in range(settings.pairs):
            for k in range(count) if i % 2 else reversed(range(count)):
                times[k].append(seconds(runs[k], device, repeats[k]))
                bar.update()
    return times


def compare(
    name: str, what: str, against: str, ours: Run, theirs: Run, settings: Settings, bar: Bar | None = None, **extra: Any
) -> Row:
    """A row of seconds a call: what it costs."""
    a, b = measure([ours, theirs], settings, f"{name}: {what}")
    return Row(name, what, against, "s", a, b, bar, extra)
