"""Errors of hand poses, as the field defines them. Lengths in millimetres, pixels where said.

- **MPJPE**: mean over the joints of the Euclidean distance, prediction and label both relative to their own root
  (the wrist), no scaling. All 21 joints count, the root with its 0, as in the DexYCB and InterHand2.6M scripts.
- **PA-MPJPE**: the same after Procrustes alignment (translation, rotation, one scale) of each frame's prediction to
  its label. Two forms. ``proper``: the least-squares rotation [1, 2], no reflection; the headline here, since a
  reflected hand is the other hand. ``official``: the scripts of FreiHAND, DexYCB and HO3D [3], an orthogonal matrix
  that may reflect, with their epsilons; never larger in the least-squares sense.
- **EPE** of a joint or a finger: the mean distance over frames. **PCK** at t: the share of frames within t, for each
  joint, averaged over joints; **AUC**: the area under it over a range of t, divided by the range [3].
- **Which frames count**: those whose root and one other joint are labelled. `valid` (N, J) says which joints are;
  frames that do not count have NaN errors, and so have joints that do not.

All functions are batched, run where their tensors lie, and are differentiable where they are smooth (alignments where
the singular values of the 3x3 covariance differ). Give float64 for numbers that are to be published.

[1] Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
[2] Horn, Closed-form solution of absolute orientation using unit quaternions, JOSA A 1987 (the tests' reference).
[3] Zimmermann et al., FreiHAND, ICCV 2019: `eval.py`; its alignment and ranges are also DexYCB's and HO3D's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["proper", "official"]

FINGERS: dict[str, tuple[int, ...]] = {
    "wrist": (0,),
    **{
        name: tuple(range(1 + 4 * i, 5 + 4 * i))
        for i, name in enumerate(("thumb", "index", "middle", "ring", "little"))
    },
}
"""finger -> its joints, base to tip"""

RANGES_MM: dict[str, tuple[float, float]] = {"0-50": (0.0, 50.0), "20-50": (20.0, 50.0), "0-30": (0.0, 30.0)}
"""ranges of the AUC: FreiHAND, DexYCB and HO3D; STB and RHD; close-up comparisons"""

STEPS = 100  # thresholds of a curve, both ends included, as in the scripts
EPSILON = 1e-8  # of the scripts' norms, in their own unit: metres in FreiHAND and HO3D, millimetres in DexYCB
MIDDLE_BASE = 9  # HO3D's joint 4


def counting(valid: Tensor, root: int | None = 0) -> Tensor:
    """(N,) which frames count: at least two labelled joints, the root among them.

    Args:
        valid: (N, J) bool. root: None if no root is used.
    """
    enough = valid.sum(-1) >= 2
    return enough if root is None else enough & valid[..., root]


def distances(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Euclidean distance of every joint: (N, J, C), (N, J, C) -> (N, J), NaN where `valid` (N, J) is False."""
    difference = prediction - target
    if valid is None:
        return difference.norm(dim=-1)
    return torch.where(valid, torch.where(valid[..., None], difference, 0).norm(dim=-1), torch.nan)


def joint_errors(prediction: Tensor, target: Tensor, valid: Tensor | None = None, root: int = 0) -> Tensor:
    """Root-relative distance of every joint.

    Args:
        prediction, target: (N, J, 3). valid: (N, J) bool, all if None. root: the joint set to zero in both.

    Returns:
        (N, J), NaN for joints and frames that do not count.
    """
    if valid is not None:
        valid = valid & counting(valid, root)[:, None]
    return distances(_relative(prediction, root), _relative(target, root), valid)


def aligned_errors(prediction: Tensor, target: Tensor, valid: Tensor | None = None, form: Form = "proper") -> Tensor:
    """Distance of every joint after `procrustes`: (N, J), NaN for joints and frames that do not count."""
    if valid is not None:
        valid = valid & counting(valid)[:, None]
    return distances(procrustes(prediction, target, valid, form), target, valid)


def mpjpe(prediction: Tensor, target: Tensor, valid: Tensor | None = None, root: int = 0) -> Tensor:
    """MPJPE of every frame, (N,); see `joint_errors`."""
    return joint_errors(prediction, target, valid, root).nanmean(1)


def pa_mpjpe(prediction: Tensor, target: Tensor, valid: Tensor | None = None, form: Form = "proper") -> Tensor:
    """PA-MPJPE of every frame, (N,); see `procrustes`."""
    return aligned_errors(prediction, target, valid, form).nanmean(1)


def procrustes(prediction: Tensor, target: Tensor, valid: Tensor | None = None, form: Form = "proper") -> Tensor:
    """Each prediction moved onto its target by the best translation, rotation and scale; see `similarity`.

    Returns:
        (N, J, 3).
    """
    linear, p_mean, q_mean = similarity(prediction, target, valid, form)
    return (prediction - p_mean) @ linear.mT + q_mean


def similarity(
    prediction: Tensor, target: Tensor, valid: Tensor | None = None, form: Form = "proper"
) -> tuple[Tensor, Tensor, Tensor]:
    """The best translation, rotation and scale from each prediction to its target.

    ``proper``: s, R, t of least Σ‖s R p + t − q‖² with det R = +1 and s >= 0 [1]. ``official``: both sets divided by
    their norm plus `EPSILON`, R orthogonal with either sign of the determinant [3]. Points that coincide come to lie
    on the target's mean. Where the solution is not unique (collinear points), the distances to the target are.

    Args:
        prediction, target: (N, J, 3).
        valid: (N, J) bool, the joints that the fit uses.

    Returns:
        s R (N, 3, 3), and the means (N, 1, 3) of prediction and target, which it takes onto each other.

    Raises:
        ValueError: for another form.
    """
    if form not in ("proper", "official"):
        raise ValueError(f"unknown alignment '{form}': proper or official")
    weight = torch.ones_like(target[..., :1]) if valid is None else valid[..., None].to(target)
    known = weight > 0  # invalid labels may be NaN
    count = weight.sum(-2, keepdim=True).clamp(min=1)
    p_mean = torch.where(known, prediction, 0).sum(-2, keepdim=True) / count
    q_mean = torch.where(known, target, 0).sum(-2, keepdim=True) / count
    p, q = (torch.where(known, x - mean, 0) for x, mean in ((prediction, p_mean), (target, q_mean)))
    p_norm, q_norm = (torch.linalg.matrix_norm(x)[:, None, None] for x in (p, q))
    if form == "official":
        p_norm, q_norm = p_norm + EPSILON, q_norm + EPSILON
    else:
        tiny = torch.finfo(p_norm.dtype).tiny ** 0.5
        p_norm, q_norm = p_norm.clamp(min=tiny), q_norm.clamp(min=tiny)
    u, s, vt = proper_svd((q / q_norm).mT @ (p / p_norm), reflections=form == "official")
    return u @ vt * (s.sum(-1)[:, None, None] * q_norm / p_norm), p_mean, q_mean


def proper_svd(matrix: Tensor, reflections: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, Vᵀ of matrices (..., 3, 3) for which U Vᵀ is a rotation: the last of s is negative if need be [1].

    With reflections, the ordinary singular value decomposition.
    """
    u, s, vt = torch.linalg.svd(matrix)
    if not reflections:
        sign = torch.linalg.det(u.detach() @ vt.detach()).sign()
        last = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
        u, s = u * last[..., None, :], s * last
    return u, s, vt


def align_scale_translation(prediction: Tensor, target: Tensor, root: int = 0, reference: int = MIDDLE_BASE) -> Tensor:
    """HO3D's second protocol: root on root, and the bone root to `reference` as long as the target's.

    Args:
        prediction, target: (N, J, 3).

    Returns:
        (N, J, 3).
    """
    p, q = _relative(prediction, root), _relative(target, root)
    own, wanted = (x[:, reference].norm(dim=-1)[:, None, None] for x in (p, q))
    return p / torch.where(own > 0, own, 1) * wanted + target[:, root : root + 1]


def pck_curve(errors: Tensor, low: float = 0.0, high: float = 50.0, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """PCK over a range of thresholds.

    Args:
        errors: (N, J), NaN where nothing counts. low, high: the range, in the errors' unit.

    Returns:
        thresholds (steps,), and the shares (steps,): of each joint's frames with an error <= t, mean over joints.
    """
    thresholds = torch.linspace(low, high, steps, dtype=errors.dtype, device=errors.device)
    counts = (~errors.isnan()).sum(0)
    ordered = errors.nan_to_num(nan=torch.inf).T.contiguous().sort(-1).values
    within = torch.searchsorted(ordered, thresholds.expand(len(ordered), -1).contiguous(), right=True)
    per_joint = within[counts > 0] / counts[counts > 0][:, None].to(errors.dtype)
    return thresholds, per_joint.mean(0)


def auc(errors: Tensor, low: float = 0.0, high: float = 50.0, steps: int = STEPS) -> float:
    """Area under the PCK curve over [low, high] by the trapezoidal rule, divided by its width: 1 is perfect."""
    thresholds, curve = pck_curve(errors, low, high, steps)
    return (torch.trapezoid(curve, thresholds) / (high - low)).item()


def epe_by_joint(errors: Tensor) -> Tensor:
    """(J,) mean distance of every joint over the frames of errors (N, J)."""
    return errors.nanmean(0)


def epe_by_finger(errors: Tensor) -> dict[str, float]:
    """Mean distance over the joints of each finger and the frames of errors (N, 21)."""
    return {name: errors[:, list(joints)].nanmean().item() for name, joints in FINGERS.items()}


def interhand_mpjpe(errors: Tensor, right: Tensor, interacting: Tensor) -> dict[str, float]:
    """InterHand2.6M's MPJPE: each hand relative to its own wrist; mean over the frames of each of the 42 joints, then
    over joints; on single hands, interacting hands, and all.

    Args:
        errors: (N, 21), one row a hand, from `joint_errors`.
        right: (N,) bool, the hand's side in the file, before any mirroring.
        interacting: (N,) bool, whether the frame shows two hands.

    Returns:
        "single", "interacting" and "all"; NaN where there is no such hand. Joints that never occur are left out.
    """
    both = torch.full((len(errors), 2, errors.shape[1]), torch.nan, dtype=errors.dtype, device=errors.device)
    rows = torch.arange(len(errors), device=errors.device)
    both[rows, (~right).long()] = errors
    groups = {"single": ~interacting, "interacting": interacting, "all": torch.ones_like(interacting)}
    return {name: both[group].flatten(1).nanmean(0).nanmean().item() for name, group in groups.items()}


def pixel_errors(prediction_px: Tensor, target_px: Tensor, side_px: Tensor, valid: Tensor | None = None) -> Tensor:
    """2D distances as shares of the hand's box, for 2D PCK.

    Args:
        prediction_px, target_px: (N, J, 2) pixels.
        side_px: (N,) the longer side of each hand's box; see `box_side`.
        valid: (N, J) bool.

    Returns:
        (N, J); `pck_curve` over 0 to 0.2 and so on.
    """
    return distances(prediction_px, target_px, valid) / side_px[:, None]


def box_side(target_px: Tensor, valid: Tensor | None = None) -> Tensor:
    """(N,) longer side of the tight box of the labelled joints (N, J, 2), pixels; at least 1."""
    known = torch.ones_like(target_px[..., 0], dtype=torch.bool) if valid is None else valid
    low = torch.where(known[..., None], target_px, torch.inf).amin(1)
    high = torch.where(known[..., None], target_px, -torch.inf).amax(1)
    return (high - low).amax(-1).clamp(min=1.0)


def _relative(joints: Tensor, root: int) -> Tensor:
    return joints - joints[:, root : root + 1]
