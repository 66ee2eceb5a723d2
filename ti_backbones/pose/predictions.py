"""A pose model's predictions on a labelled set, and its errors over in-plane rotation of the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import o2
from ..data.broken import Tally
from ..data.images import Samples
from ..errors import InputError
from . import metrics
from .data import InMemory, stream
from .model import PoseModel
from .training import predict


@dataclass
class Predictions:
    """Predicted and labelled hands of a set, one row each, mm, camera frame, as the model saw them (after mirroring).

    Attributes:
        joints: (N, 21, 3) root-relative predictions. hands: labels and K, see `data`.
        keys: (N,) names of the samples. extra: (N,) what the set says of each. right: (N,) side in the file.
        left_out: samples that do not count, by reason.
    """

    joints: Tensor
    hands: InMemory
    keys: list[str]
    extra: list[dict[str, Any]]
    right: Tensor
    left_out: dict[str, int] = field(default_factory=dict)

    def take(self, which: Tensor) -> Predictions:
        """Some of them: which (N,) bool."""
        rows = which.nonzero()[:, 0].tolist()
        about = [self.keys[i] for i in rows], [self.extra[i] for i in rows]
        return Predictions(self.joints[rows], self.hands.take(rows), *about, self.right[rows], self.left_out)

    def absolute(self) -> Tensor:
        """(N, 21, 3) predictions with their root at the labelled one."""
        return self.joints - self.joints[:, :1] + self.hands.tensors["joints"][:, :1]

    def pixels(self) -> Tensor:
        """(N, 21, 2) of `absolute`, through K."""
        k = self.hands.tensors["intrinsics"]
        p = self.absolute() @ k.mT
        return p[..., :2] / p[..., 2:]


def predict_set(
    model: PoseModel, samples: Samples, workers: int = 0, bf16: bool = False, root_only: bool = False
) -> Predictions:
    """Predict every labelled hand of a set; images are read as they are needed, and not kept.

    Args:
        root_only: whether a labelled root is enough.

    Raises:
        InputError: if no hand is labelled, too many samples are broken, or a prediction is not finite.
    """
    tally, parts, joints, about = Tally(len(samples), samples.spec), [], [], []
    for batch, said in stream(samples, model.spec.size, workers, tally, root_only=root_only, desc="predicting"):
        if said:
            joints.append(predict(model, InMemory(batch, tally), bf16))
            parts.append({k: v for k, v in batch.items() if k != "image"})
            about += said
    if not about:
        raise InputError(f"data '{samples.spec}' has no hand whose wrist and another joint are labelled: give another")
    hands = InMemory({k: torch.cat([part[k] for part in parts]) for k in parts[0]}, tally)
    predicted = torch.cat(joints)
    finite = predicted.isfinite().all(2).all(1)
    if not finite.all():
        first = about[int((~finite).nonzero()[0])]["key"]
        raise InputError(
            f"the prediction for '{first}' of '{samples.spec}' is not finite ({int((~finite).sum())} of {len(about)}):"
            " fine-tune again with a lower --recipe.lr, or evaluate with --precision fp32"
        )
    left_out = {"broken": len(tally.names), "without a labelled hand": len(samples) - len(about) - len(tally.names)}
    side = torch.tensor([a["right"] is not False for a in about])
    return Predictions(
        predicted,
        hands,
        [a["key"] for a in about],
        [a["extra"] for a in about],
        side ^ hands.tensors["mirrored"],
        {reason: n for reason, n in left_out.items() if n} | getattr(samples, "skipped", {}),
    )


def errors_over_rotation(model: PoseModel, hands: InMemory, angles: int, bf16: bool = False) -> dict[str, Any]:
    """MPJPE and PA-MPJPE of images turned by equally spaced angles, against labels that are turned too.

    Returns:
        "angles_deg", "mpjpe" and "pa_mpjpe", lists of `angles` numbers.
    """
    out: dict[str, list[float]] = {"angles_deg": [], "mpjpe": [], "pa_mpjpe": []}
    joints, valid = hands.tensors["joints"], hands.tensors["valid"]
    for i in range(angles):
        angle = i * o2.TAU / angles
        target = o2.act_on_joints(o2.element(False, angle, len(joints)), joints)
        prediction = predict(model, hands, bf16, desc=f"at {360 * i / angles:.0f}°", angle=angle)
        out["angles_deg"].append(360 * i / angles)
        out["mpjpe"].append(metrics.mpjpe(prediction, target, valid).mean().item())
        out["pa_mpjpe"].append(metrics.pa_mpjpe(prediction, target, valid).mean().item())
    return out
