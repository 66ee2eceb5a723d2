"""What a pose model does on a labelled set: errors as a table, JSON, curves and pictures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.draw import COLOURS, sheet, tile
from ..data.images import Samples
from ..errors import InputError, first_line
from . import metrics
from .data import fit
from .predictions import Predictions

PCK_2D = (0.05, 0.1, 0.2)  # of the hand's box
ALIGNMENTS = ("root", "proper", "official")


@dataclass
class Results:
    """Errors of a pose model on a set. Lengths in mm; `metrics` has the definitions.

    Attributes:
        data: the set. hands, joints: how many count. left_out: samples that do not, by reason.
        mpjpe: mean, after root alignment ("root"), and after Procrustes ("proper" is the headline, "official" the
            scripts').
        median: the same, medians over hands.
        auc: alignment -> range -> area under the PCK curve.
        finger: alignment -> finger -> mean error. joint: alignment -> 21 mean errors.
        pck_2d: threshold (share of the hand's box) -> share of joints; empty without K. The prediction's root is put
            at the labelled one.
        protocols: numbers that only one set's script knows, by name.
        rotation: errors over in-plane rotation of the images, if they were asked for.
        size_ratio: mean of predicted over labelled size (norm of the root-relative joints): below 1 is a shrunken hand.
        curves: alignment -> PCK at `thresholds_mm`.
        samples: each hand's key, MPJPE and PA-MPJPE in both forms.
        against: what another model has on the same hands, and by how much this one's error is less: the ends of the
            95 % confidence interval of the paired mean. By "mpjpe" and "pa_mpjpe", if it was asked for.
    """

    data: str
    hands: int
    joints: int
    left_out: dict[str, int]
    mpjpe: dict[str, float]
    median: dict[str, float]
    auc: dict[str, dict[str, float]]
    finger: dict[str, dict[str, float]]
    joint: dict[str, list[float]]
    pck_2d: dict[str, float]
    protocols: dict[str, float]
    size_ratio: float
    thresholds_mm: list[float]
    curves: dict[str, list[float]]
    samples: list[dict[str, Any]]
    rotation: dict[str, Any] = field(default_factory=dict)
    against: dict[str, dict[str, float]] = field(default_factory=dict)

    def compare(self, theirs: dict[str, Any]) -> None:
        """Fill in `against`.

        Args:
            theirs: another model's results on the same hands, as `to_json` writes them.

        Raises:
            InputError: if they are of other hands, or no results.
        """
        try:
            errors = {s["key"]: s for s in theirs["samples"]}
            if errors.keys() != {s["key"] for s in self.samples} or len(errors) < 2:
                raise InputError(f"the results on '{theirs['data']}' are of other hands: evaluate both on the same")
            for key in ("mpjpe", "pa_mpjpe"):
                other = np.array([errors[s["key"]][key] for s in self.samples], float)
                less = other - np.array([s[key] for s in self.samples])
                half = 1.96 * less.std(ddof=1) / math.sqrt(len(less))
                low, high = float(less.mean() - half), float(less.mean() + half)
                self.against[key] = {"theirs": float(other.mean()), "low": low, "high": high}
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"these are no results of evaluate ({first_line(e)}): evaluate that model again") from e

    def to_json(self) -> str:
        """Everything, as JSON; what is not a number is null."""
        return json.dumps(_plain(asdict(self)), indent=1) + "\n"

    def table(self) -> str:
        """The headline and its parts, as text."""
        lines = [f"pose errors on {self.hands} hands of {self.data}, {self.joints} joints, mm"]
        if self.left_out:
            lines.append("  left out: " + ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()))
        if "embedded" in self.data:
            lines.append("  synthetic renders: these numbers say nothing about real hands")
        lines.append(f"  {'':<34}{'mean':>8}{'median':>9}" + "".join(f"{f'AUC {r}':>11}" for r in metrics.RANGES_MM))
        names = {
            "proper": "PA-MPJPE (rotation only)",
            "root": "MPJPE (root-relative)",
            "official": "PA-MPJPE (official, may reflect)",
        }
        for key, name in names.items():
            areas = "".join(f"{self.auc[key][r]:>11.3f}" for r in metrics.RANGES_MM)
            lines.append(f"  {name:<34}{self.mpjpe[key]:>8.2f}{self.median[key]:>9.2f}{areas}")
        for key in ("proper", "root"):
            parts = "  ".join(f"{name} {value:.1f}" for name, value in self.finger[key].items())
            lines.append(f"  {names[key].split(' ')[0]} by finger: {parts}")
        if self.pck_2d:
            lines.append("  2D PCK: " + "  ".join(f"@{t} {v:.3f}" for t, v in self.pck_2d.items()))
        lines.append(f"  predicted size / labelled size: {self.size_ratio:.2f}")
        lines += [f"  {name}: {value:.2f}" for name, value in self.protocols.items()]
        if self.rotation:
            for key, name in (("mpjpe", "MPJPE"), ("pa_mpjpe", "PA-MPJPE")):
                r = self.rotation[key]
                lines.append(
                    f"  {name} over {len(r)} in-plane rotations: best {min(r):.2f}, worst {max(r):.2f},"
                    f" spread {max(r) - min(r):.2f}"
                )
        for key, their in self.against.items():
            less = (their["low"] + their["high"]) / 2
            percent = 100 * less / their["theirs"]
            lines.append(
                f"  {key.upper().replace('_', '-')} {their['theirs'] - less:.2f} against {their['theirs']:.2f}:"
                f" {abs(percent):.1f} % {'less' if percent >= 0 else 'more'}"
                f" (less by {their['low']:.2f} to {their['high']:.2f} mm, 95 %)"
            )
        return "\n".join(lines)

    def figure(self, path: Path) -> None:
        """Draw the PCK curves, and the errors over in-plane rotation if there are any (needs matplotlib)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        fig = Figure(figsize=(10 if self.rotation else 5.5, 3.8), layout="constrained")
        FigureCanvasAgg(fig)
        axes, *more = np.atleast_1d(fig.subplots(1, 2 if self.rotation else 1))
        names = {"root": "root-relative", "proper": "Procrustes, rotation only", "official": "Procrustes, official"}
        for key, name in names.items():
            label = f"{name}: AUC 0-50 mm {self.auc[key]['0-50']:.3f}"
            axes.plot(self.thresholds_mm, self.curves[key], label=label, ls="--" if key == "official" else "-")
        axes.set(xlabel="error threshold [mm]", ylabel="PCK", xlim=(0, None), ylim=(0, 1), title=f"{self.hands} hands")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
        if more:
            for key, name in (("mpjpe", "MPJPE"), ("pa_mpjpe", "PA-MPJPE")):
                more[0].plot(self.rotation["angles_deg"], self.rotation[key], label=name)
            more[0].set(xlabel="in-plane rotation [degrees]", ylabel="mean error [mm]", ylim=(0, None))
            more[0].grid(alpha=0.3)
            more[0].legend(frameon=False)
        fig.savefig(path, dpi=120)


def evaluate_predictions(predictions: Predictions, data: str) -> Results:
    """Every error of predictions against their labels; `data` is the set's name."""
    hands = predictions.hands.tensors
    prediction, target, valid = predictions.joints.double(), hands["joints"].double(), hands["valid"]
    errors = {
        "root": metrics.joint_errors(prediction, target, valid),
        "proper": metrics.aligned_errors(prediction, target, valid, "proper"),
        "official": metrics.aligned_errors(prediction, target, valid, "official"),
    }
    each = {key: e.nanmean(1) for key, e in errors.items()}
    curves = {key: metrics.pck_curve(e) for key, e in errors.items()}
    relative = torch.where(valid[..., None], target - target[:, :1], 0), torch.where(valid[..., None], prediction, 0)
    label_size, size = (x.square().sum((1, 2)).sqrt() for x in relative)
    return Results(
        data=data,
        hands=len(target),
        joints=int(valid.sum()),
        left_out=predictions.left_out,
        mpjpe={key: e.mean().item() for key, e in each.items()},
        median={key: e.median().item() for key, e in each.items()},
        auc={k: {r: metrics.auc(e, *span) for r, span in metrics.RANGES_MM.items()} for k, e in errors.items()},
        finger={key: metrics.epe_by_finger(e) for key, e in errors.items()},
        joint={key: metrics.epe_by_joint(e).tolist() for key, e in errors.items()},
        pck_2d=_pck_2d(predictions),
        protocols=_protocols(predictions, errors["root"], data),
        size_ratio=(size / label_size).mean().item(),
        thresholds_mm=curves["root"][0].tolist(),
        curves={key: c.tolist() for key, (_, c) in curves.items()},
        samples=[
            {"key": k, "mpjpe": a, "pa_mpjpe": b, "pa_mpjpe_official": c}
            for k, a, b, c in zip(predictions.keys, *(each[a].tolist() for a in ALIGNMENTS), strict=True)
        ],
    )


def _pck_2d(predictions: Predictions) -> dict[str, float]:
    hands = predictions.hands.tensors
    target, valid = hands["pixels"].double(), hands["valid"]
    if target.isnan().all():
        return {}
    pixels = predictions.pixels().double()
    valid = valid & target.isfinite().all(-1)
    errors = metrics.pixel_errors(pixels, target, metrics.box_side(target, valid), valid)
    return {str(t): metrics.pck_curve(errors, 0, t, 2)[1][1].item() for t in PCK_2D}


def _protocols(predictions: Predictions, errors: Tensor, data: str) -> dict[str, float]:
    """What the sets' own scripts report besides."""
    numbers = {}
    if data.startswith("ho3d:"):
        hands = predictions.hands.tensors
        target, valid = hands["joints"].double(), hands["valid"]
        moved = metrics.align_scale_translation(predictions.joints.double(), target)
        whole = valid & valid[:, [metrics.MIDDLE_BASE]]
        error = metrics.distances(moved, target, whole).nanmean(1)
        numbers["HO-3D MPJPE, scale and translation aligned"] = error.nanmean().item()
    types = [extra.get("hand_type") for extra in predictions.extra]
    if any(types):
        interacting = torch.tensor([t == "interacting" for t in types])
        own = metrics.interhand_mpjpe(errors, predictions.right, interacting)
        numbers |= {f"InterHand2.6M MPJPE, {name} hands": value for name, value in own.items()}
    return numbers


def picture_sheet(
    predictions: Predictions, results: Results, samples: Samples, size: int, each: int = 6, side: int = 192
) -> Image.Image:
    """The best, median and worst hands by PA-MPJPE: labels in colours, the prediction beside them.

    Args:
        samples: the set. size: of the images that `predictions` are in. each: hands in a row. side: of a tile, px.

    Returns:
        three double rows.
    """
    hands = predictions.hands.tensors
    errors = np.array([s["pa_mpjpe"] for s in results.samples])
    order = np.argsort(errors)
    each = min(each, len(order))
    middle = max((len(order) - each) // 2, 0)
    chosen = [*order[:each], *order[middle : middle + each], *order[-each:]]
    pixels = predictions.pixels().numpy()
    tiles, captions = [], []
    for row, name in enumerate(("best", "median", "worst")):
        picked = chosen[row * each : (row + 1) * each]
        shown = [(i, fit(samples[int(hands["index"][i])], size).image) for i in picked]
        for label in (True, False):
            for i, image in shown:
                joints = hands["pixels"][i].numpy() if label else pixels[i]
                tiles.append(tile(image, side, joints, hands["valid"][i].numpy() if label else None, COLOURS))
                error = results.samples[i]["mpjpe"]
                said = f"{name}: label" if label else f"predicted: {errors[i]:.1f} PA, {error:.1f} mm"
                captions.append(said)
    return sheet(tiles, captions, each)


def _plain(value: Any) -> Any:
    """Values that JSON has: NaN and infinity become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
