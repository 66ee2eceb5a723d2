"""Seconds of training until the latent of held-out images moves as the images do: a gain of 0.5.

The preset `o2` and the authors' scheme, preset `paper`, train on the embedded set with the package's own step, by turns
for a slice of time each, and are certified in between; that time is not counted. T is asked from the first step on
(`alone` 0), whatever the plan's length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paired import Row, Settings, synchronise
from tqdm import tqdm
from training import QUICK_MODEL, Pretraining

from ti_backbones.data.order import StepSampler
from ti_backbones.isomorphism import certify_backbone

GOAL = 0.5
HELD_OUT, ANGLES = 64, 8
SLICE, SHORTEST = 0.1, 2.0  # share of the time so far, but so many seconds at least
CURVES = {"o2": "o2", "paper": "authors' scheme, preset paper"}


class _Curve:
    """A training, its time, and the gain it has reached."""

    def __init__(self, settings: Settings, preset: str, model: str, size: int, batch: int, epochs: int):
        self.settings = settings
        self.training = Pretraining(settings, model, size, batch, preset, "embedded", {"alone": 0.0}, epochs=epochs)
        run = self.training.run
        sampler = StepSampler(len(run.data.images), batch, run.steps, 0, 0)
        self.batches = (run.data.images.images[i] for i in sampler)  # pyright: ignore[reportAttributeAccessIssue]
        self.seconds, self.points = 0.0, [(0.0, self._gain())]

    def _gain(self) -> float:
        run = self.training.run
        run.objective.eval()
        with self.settings.autocast():
            gain = certify_backbone(run.objective.ti, run._test_images()[:HELD_OUT], angles=ANGLES).gain
        run.objective.train()
        return gain

    @property
    def reached(self) -> bool:
        return self.points[-1][1] >= GOAL

    def train(self) -> bool:
        """Go on for a slice of time, then certify; whether the training is over."""
        run, device, span = (
            self.training.run,
            self.settings.device,
            max(SLICE * self.seconds, 0.1 if self.settings.quick else SHORTEST),
        )
        began = time.perf_counter()
        while time.perf_counter() - began < span and run.step < run.steps:
            self.training.step(next(self.batches))
        synchronise(device)
        self.seconds += time.perf_counter() - began
        self.points.append((self.seconds, self._gain()))
        return self.reached or run.step == run.steps

    def to_json(self) -> dict[str, Any]:
        return {
            "reached": self.reached,
            "seconds": [t for t, _ in self.points],
            "gain": [g for _, g in self.points],
            "source_images": self.training.run.step * self.training.run.config.batch,
        }


def gain(settings: Settings, minutes: float) -> Iterator[Row]:
    """One training of each, of `minutes` at most. A side that ends below the goal counts with all of its time."""
    model, size, batch, epochs = (QUICK_MODEL, 32, 64, 1) if settings.quick else ("resnet18", 64, 64, 20)
    limit = 1 if settings.quick else minutes * 60
    curves = {preset: _Curve(settings, preset, model, size, batch, epochs) for preset in CURVES}
    going = list(curves)
    with tqdm(total=round(limit * len(curves)), desc="gain", unit="s", leave=False) as bar:
        while going:
            for preset in list(going):
                over = curves[preset].train()
                if over or curves[preset].seconds >= limit:
                    going.remove(preset)
            bar.n = round(sum(c.seconds for c in curves.values()))
            bar.set_postfix({preset: f"{c.points[-1][1]:.2f}" for preset, c in curves.items()})
    words = {p: f"gain {GOAL}" if c.reached else f"end at gain {c.points[-1][1]:.2f}" for p, c in curves.items()}
    what = f"o2 until {words['o2']}, {model}, {size} px, {settings.precision}"
    against = f"{CURVES['paper']}, until {words['paper']}"
    ours, theirs = ([c.seconds] for c in curves.values())
    yield Row("gain", what, against, "s", ours, theirs, None, {"curves": {p: c.to_json() for p, c in curves.items()}})


def figure(row: dict[str, Any], path: Path) -> None:
    """Gain against seconds, for both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots()
    for preset, label in CURVES.items():
        axes.plot(row["curves"][preset]["seconds"], row["curves"][preset]["gain"], marker=".", label=label)
    axes.axhline(GOAL, color="0.6", linewidth=1)
    axes.set(xlabel="training time [s]", ylabel="gain on held-out images", ylim=(-0.5, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    fig.savefig(path, dpi=120)
