"""How the o2 step grows: seconds over image size, batch, views, rank and model, loading over workers, runs over
processes; and what pretraining on DexYCB would cost, by calculation from these numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import loading
import numpy as np
import processes
import torch
from paired import Settings, measure
from torch.utils.flop_counter import FlopCounterMode
from training import QUICK_MODEL, QUICK_SIZE, Pretraining

FRAMES, PASSES, DEVICES = 465_504, 10, (1, 8, 64)  # of DexYCB


@dataclass(frozen=True)
class Point:
    """A place on a scale. label, x: where. seconds: of a step of `images` source images; of one image in loading."""

    label: str
    x: float
    seconds: float
    images: int = 1

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def base_of(settings: Settings) -> tuple[str, int, int]:
    """Model, image size and batch where a scale is not about them."""
    return (QUICK_MODEL, QUICK_SIZE, 4) if settings.quick else ("resnet18", 128, 16)


def scales(settings: Settings) -> dict[str, list[Point]]:
    """The points of each scale."""
    quick = settings.quick
    base = base_of(settings)
    ranks = (32, 64) if quick else (32, 64, 128, 256, 512)
    models = (QUICK_MODEL, "test_vit") if quick else ("resnet10t", "resnet18", "resnet50", "vit_tiny_patch16_224")
    sizes, batches = ((64, 96), (4, 8)) if quick else ((64, 96, 128, 160, 224), (8, 16, 32, 64))

    def scale(name: str, values: dict[str, tuple[float, dict[str, Any]]]) -> list[Point]:
        return _steps(settings, name, values, dict(zip(("model", "size", "batch"), base, strict=True)))

    plans = {"pair": (2.0, {"views": "pair"}), "paper plan": (14.0, {"views": "paper"})}
    found = {
        "image size [px]": scale("size", {str(n): (n, {"size": n}) for n in sizes}),
        "batch [images]": scale("batch", {str(n): (n, {"batch": n}) for n in batches}),
        "views": scale("views", plans),
        "rank": scale("rank", {str(n): (n, {"rank": n}) for n in ranks}),
        "model [GFLOP]": scale(
            "model", {name: (gigaflops(settings, name, base[1]), {"model": name}) for name in models}
        ),
    }
    for name, rows in (("workers", loading.loading), ("processes", processes.processes)):
        found[name] = _counted(name, rows, settings)
    return found


def _steps(
    settings: Settings, name: str, values: dict[str, tuple[float, dict[str, Any]]], base: dict[str, Any]
) -> list[Point]:
    """Seconds of a step at each value of one option, all of them in turn."""
    made = []
    for _, change in values.values():
        options = base | change
        objective = {"views": options.pop("views")} if "views" in options else {}
        made.append(Pretraining(settings, **options, objective=objective))
    times = measure(made, settings, f"scaling: {name}")
    points = zip(values.items(), times, made, strict=True)
    return [Point(label, x, statistics.median(t), len(m.images)) for (label, (x, _)), t, m in points]


def _counted(name: str, rows: Callable, settings: Settings) -> list[Point]:
    """One and two workers on shards, or one and two processes: seconds of an image, from the rows of a benchmark."""
    found = list(rows(settings))
    if not found:
        return []
    if name == "processes":
        rates = found[0].theirs, found[0].ours
    else:
        rates = tuple(row.ours for row in found if row.what.startswith("loading shards"))
    return [Point(str(n), n, 1 / statistics.median(rate)) for n, rate in zip((1, 2), rates, strict=True)]


def gigaflops(settings: Settings, model: str, size: int) -> float:
    """Floating-point operations of a forward pass of the encoder on one image, in 10⁹."""
    encoder = Pretraining(settings, model, size, 2).run.objective.ti.encoder.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, size, size, device=settings.device))
    return counter.get_total_flops() / 1e9


def exponent(points: list[Point]) -> float:
    """p of seconds ~ xᵖ, fitted to logarithms."""
    x, y = ([math.log(value) for value in values] for values in zip(*((p.x, p.seconds) for p in points), strict=True))
    return float(np.polyfit(x, y, 1)[0])


def dexycb(found: dict[str, list[Point]], settings: Settings) -> list[dict[str, Any]]:
    """Hours of pretraining on DexYCB by calculation: n devices are taken to give nᵖ times the images a second, where 2ᵖ
    is what the second process brought here.
    """
    p = -exponent(found["processes"]) if found["processes"] else 1.0
    base, size, _ = base_of(settings)
    runs = [(f"{base}, {point.label} px", point) for point in found["image size [px]"]]
    runs += [(f"{point.label}, {size} px", point) for point in found["model [GFLOP]"] if point.label != base]
    costs = []
    for label, point in runs:
        for n in DEVICES:
            hours = FRAMES / point.images_per_s / n**p / 3600
            costs.append({"run": label, "devices": n, "hours_a_pass": hours, "hours_of_ten_passes": PASSES * hours})
    return costs


def report(settings: Settings) -> tuple[dict[str, Any], str]:
    """The scales and the calculation, as plain JSON values and as text."""
    found = scales(settings)
    costs = dexycb(found, settings)
    model, size, batch = base_of(settings)
    lines = [f"o2 step, {settings.precision}; where nothing else is said, {model}, {size} px, {batch} images"]
    values: dict[str, Any] = {}
    for name, points in found.items():
        fitted = exponent(points) if points else None
        values[name] = {"exponent": fitted, "points": [vars(p) | {"images_per_s": p.images_per_s} for p in points]}
        lines.append(name + (f": seconds grow with exponent {fitted:.2f}" if points else ": not measured here"))
        lines += [f"  {p.label:<22}{p.seconds:10.4f} s{p.images_per_s:12.1f} images/s" for p in points]
    lines += [
        f"By calculation from the above, not measured: hours of pretraining on DexYCB's {FRAMES:,} frames, where",
        "n devices like this one give n^p times the images a second, p as 2 processes against 1 had it here",
    ]
    lines += [
        f"  {c['run']:<32}{c['devices']:4d} devices{c['hours_a_pass']:10.2f} h a pass"
        f"{c['hours_of_ten_passes']:10.2f} h for {PASSES} passes"
        for c in costs
    ]
    return {"scales": values, "dexycb_by_calculation": costs}, "\n".join(lines)
