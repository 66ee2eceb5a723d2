"""Pose metrics against independent computations: the official scripts' algorithms in numpy, and Horn's quaternions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

from ti_backbones.pose import metrics

N = 1000  # of each kind of case


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind -> predictions and targets (N, 21, 3) in mm, of ordinary and degenerate shapes."""
    rng = np.random.default_rng(0)

    def hands(rank: int = 3) -> np.ndarray:
        points = rng.normal(size=(N, 21, rank)) * rng.uniform(5, 80, (N, 1, rank)) @ rng.normal(size=(N, rank, 3))
        return points + rng.normal(size=(N, 1, 3)) * 500

    target, turn = hands(), Rotation.random(N, rng=rng).as_matrix()
    near = target @ turn.mT * rng.uniform(0.3, 3, (N, 1, 1)) + rng.normal(size=(N, 21, 3))
    coincident = np.broadcast_to(rng.normal(size=(N, 1, 3)) * 100, (N, 21, 3)).copy()
    return {
        "unrelated": (hands(), target),
        "near": (near, target),
        "mirrored": (near * [-1, 1, 1], target),
        "equal": (target.copy(), target),
        "flat prediction": (hands(2), target),
        "flat target": (near, hands(2)),
        "flat both": (hands(2), hands(2)),
        "collinear prediction": (hands(1), target),
        "collinear target": (near, hands(1)),
        "collinear both": (hands(1), hands(1)),
        "coincident prediction": (coincident, target),
        "coincident target": (near, coincident),
        "coincident both": (coincident, coincident[::-1].copy()),
        "predicted nothing": (np.zeros((N, 21, 3)), target),
    }


CASES = cases()


def official_align(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The algorithm of FreiHAND's eval.py, which DexYCB and HO3D use too, for one frame."""
    t1, t2 = target.mean(0), prediction.mean(0)
    a, b = target - t1, prediction - t2
    s1, s2 = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
    r, s = orthogonal_procrustes(a / s1, b / s2)
    return np.dot(b / s2, r.T) * s * s1 + t1


def horn_align(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Least-squares rotation from Horn's quaternion (1987), then the least-squares scale, for one frame."""
    q, p = target - target.mean(0), prediction - prediction.mean(0)
    size = np.sqrt((p**2).sum() * (q**2).sum())
    s = p.T @ q / size if size > 0 else np.zeros((3, 3))
    n = np.empty((4, 4))
    n[0, 0] = np.trace(s)
    n[0, 1:] = n[1:, 0] = s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]
    n[1:, 1:] = s + s.T - np.trace(s) * np.eye(3)
    w, x, y, z = np.linalg.eigh(n)[1][:, -1]
    turned = p @ Rotation.from_quat([x, y, z, w]).as_matrix().T
    scale = (turned * q).sum() / (p**2).sum() if (p**2).sum() > 0 else 0.0
    return turned * scale + target.mean(0)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).sum(-1))


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(("form", "reference"), [("official", official_align), ("proper", horn_align)])
def test_alignment_equals_an_independent_one(kind, form, reference, device):
    prediction, target = CASES[kind]
    expected = np.stack([distances(reference(q, p), q) for p, q in zip(prediction, target, strict=True)])
    p, q = (torch.from_numpy(x).to(device) for x in (prediction, target))
    errors = metrics.aligned_errors(p, q, form=form).cpu().numpy()
    np.testing.assert_allclose(errors, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(metrics.pa_mpjpe(p, q, form=form).cpu().numpy(), expected.mean(1), atol=1e-6)


@pytest.mark.parametrize("kind", CASES)
def test_joint_errors_equal_the_definition(kind):
    prediction, target = CASES[kind]
    expected = distances(prediction - prediction[:, :1], target - target[:, :1])
    errors = metrics.joint_errors(torch.from_numpy(prediction), torch.from_numpy(target)).numpy()
    np.testing.assert_allclose(errors, expected, atol=1e-6)
    np.testing.assert_allclose(
        metrics.mpjpe(torch.from_numpy(prediction), torch.from_numpy(target)).numpy(), expected.mean(1), atol=1e-6
    )


def test_the_official_form_in_metres_is_freihands():
    """There the epsilon is one of metres."""
    prediction, target = (x / 1000 for x in CASES["near"])
    expected = np.stack([distances(official_align(q, p), q) for p, q in zip(prediction, target, strict=True)])
    errors = metrics.aligned_errors(torch.from_numpy(prediction), torch.from_numpy(target), form="official")
    np.testing.assert_allclose(errors.numpy() * 1000, expected * 1000, atol=1e-6)


def test_a_reflected_hand_is_forgiven_by_the_official_form_only():
    target = torch.from_numpy(CASES["near"][1])
    mirrored = target * torch.tensor([-1.0, 1, 1])
    assert metrics.pa_mpjpe(mirrored, target, form="official").max() < 1e-6
    assert metrics.pa_mpjpe(mirrored, target, form="proper").mean() > 5


@pytest.mark.parametrize("form", ["proper", "official"])
def test_alignment_takes_out_what_it_should(form):
    prediction, target = (torch.from_numpy(x[:200]) for x in CASES["near"])
    turn = torch.from_numpy(Rotation.random(200, rng=np.random.default_rng(1)).as_matrix())
    moved = prediction @ turn.mT * 1.7 + 30
    before, after = (metrics.aligned_errors(p, target, form=form) for p in (prediction, moved))
    assert torch.allclose(before, after, atol=1e-6)


def test_no_proper_motion_does_better():
    """In the least-squares sense, against random neighbours of the solution."""
    prediction, target = (torch.from_numpy(x[:100]) for x in CASES["unrelated"])
    best = (metrics.procrustes(prediction, target) - target).square().sum((1, 2))
    aligned = metrics.procrustes(prediction, target)
    centre, rng = aligned.mean(1, keepdim=True), np.random.default_rng(2)
    for scale in (0.1, 1e-3):
        turn = torch.from_numpy(Rotation.from_rotvec(rng.normal(size=(100, 3)) * scale).as_matrix())
        size = torch.from_numpy(1 + rng.normal(size=(100, 1, 1)) * scale)
        other = (aligned - centre) @ turn.mT * size + centre + torch.from_numpy(rng.normal(size=(100, 1, 3)) * scale)
        assert ((other - target).square().sum((1, 2)) >= best - 1e-6).all()


# --- Joints and frames that do not count -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["proper", "official"])
def test_unlabelled_joints_are_as_if_they_were_not_there(form):
    prediction, target = (torch.from_numpy(x[:50]).clone() for x in CASES["unrelated"])
    valid = torch.rand(50, 21, generator=torch.Generator().manual_seed(0)) < 0.6
    valid[:, :2] = True
    target[~valid] = torch.nan
    aligned = metrics.aligned_errors(prediction, target, valid, form)
    plain = metrics.joint_errors(prediction, target, valid)
    for i in range(50):
        p, q = prediction[i : i + 1, valid[i]], target[i : i + 1, valid[i]]
        assert torch.allclose(aligned[i, valid[i]], metrics.aligned_errors(p, q, form=form)[0], atol=1e-9)
        assert torch.allclose(plain[i, valid[i]], metrics.joint_errors(p, q)[0], atol=1e-9)
    assert torch.equal(aligned.isnan(), ~valid)
    assert torch.equal(plain.isnan(), ~valid)


def test_frames_without_a_root_or_without_another_joint_do_not_count():
    prediction, target = (torch.from_numpy(x[:3]) for x in CASES["near"])
    valid = torch.ones(3, 21, dtype=torch.bool)
    valid[0, 0] = False
    valid[1, 1:] = False
    for errors in (metrics.joint_errors, metrics.aligned_errors):
        assert errors(prediction, target, valid).isnan().all(1).tolist() == [True, True, False]
    assert metrics.mpjpe(prediction, target, valid).isnan().tolist() == [True, True, False]


# --- Curves ----------------------------------------------------------------------------------------------------------


def official_auc(errors: np.ndarray, low: float, high: float, steps: int) -> tuple[np.ndarray, float, float]:
    """EvalUtil of FreiHAND: PCK of each joint, mean over joints; the trapezoidal area; the mean error."""
    thresholds = np.linspace(low, high, steps)
    curves, areas, means = [], [], []
    for joint in range(errors.shape[1]):
        data = errors[:, joint][~np.isnan(errors[:, joint])]
        if len(data) == 0:
            continue
        curve = np.array([np.mean((data <= t).astype("float")) for t in thresholds])
        curves.append(curve)
        areas.append(np.trapezoid(curve, thresholds) / np.trapezoid(np.ones_like(thresholds), thresholds))
        means.append(np.mean(data))
    return np.mean(np.array(curves), 0), float(np.mean(areas)), float(np.mean(means))


@pytest.mark.parametrize(("low", "high"), [*metrics.RANGES_MM.values(), (0.0, 0.2)])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_curve_and_area_equal_the_official_ones(low, high, missing):
    rng = np.random.default_rng(0)
    errors = rng.gamma(2, high / 3, (400, 21))
    errors[rng.random(errors.shape) < missing] = np.nan
    errors[:, 7] = np.nan  # a joint that nobody labels
    curve, area, mean = official_auc(errors, low, high, 100)
    thresholds, ours = metrics.pck_curve(torch.from_numpy(errors), low, high)
    np.testing.assert_allclose(thresholds.numpy(), np.linspace(low, high, 100), atol=1e-12)
    np.testing.assert_allclose(ours.numpy(), curve, atol=1e-12)
    assert metrics.auc(torch.from_numpy(errors), low, high) == pytest.approx(area, abs=1e-12)
    assert metrics.epe_by_joint(torch.from_numpy(errors)).nanmean().item() == pytest.approx(mean, abs=1e-9)


def test_a_threshold_itself_counts():
    _, curve = metrics.pck_curve(torch.tensor([[10.0], [20.0]]).double(), 0, 20, 3)
    assert curve.tolist() == [0, 0.5, 1]


def test_by_finger():
    errors = torch.arange(21.0).repeat(3, 1)
    fingers = metrics.epe_by_finger(errors)
    assert fingers == {"wrist": 0, "thumb": 2.5, "index": 6.5, "middle": 10.5, "ring": 14.5, "little": 18.5}
    assert sorted(j for joints in metrics.FINGERS.values() for j in joints) == list(range(21))


# --- The sets' own protocols -----------------------------------------------------------------------------------------


def test_interhand_equals_the_lists_of_its_script():
    """A list of errors for each of the 42 joints, their means, and the mean of these."""
    rng = np.random.default_rng(0)
    errors = rng.gamma(2, 5, (300, 21))
    errors[rng.random(errors.shape) < 0.3] = np.nan
    right, interacting = rng.random(300) < 0.7, rng.random(300) < 0.4
    lists: dict[str, list[list[float]]] = {k: [[] for _ in range(42)] for k in ("single", "interacting", "all")}
    for row, is_right, is_two in zip(errors, right, interacting, strict=True):
        for j, e in enumerate(row):
            if not math.isnan(e):
                joint = j if is_right else 21 + j
                lists["interacting" if is_two else "single"][joint].append(e)
                lists["all"][joint].append(e)
    expected = {k: float(np.mean([np.mean(e) for e in v])) for k, v in lists.items()}
    ours = metrics.interhand_mpjpe(torch.from_numpy(errors), torch.from_numpy(right), torch.from_numpy(interacting))
    assert ours == pytest.approx(expected, abs=1e-9)
    none = metrics.interhand_mpjpe(torch.from_numpy(errors), torch.from_numpy(right), torch.zeros(300).bool())
    assert math.isnan(none["interacting"])
    assert none["single"] == none["all"]


def test_ho3d_scale_and_translation_equal_its_script():
    """Which works in HO3D's order of joints: its bone from joint 0 to joint 4 is ours from 0 to 9."""
    ours_to_ho3d = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
    prediction, target = CASES["near"]
    theirs = []
    for p, q in zip(prediction, target, strict=True):
        p_theirs, q_theirs = np.empty((21, 3)), np.empty((21, 3))
        p_theirs[ours_to_ho3d], q_theirs[ours_to_ho3d] = p, q
        s, s_gt = np.linalg.norm(p_theirs[4] - p_theirs[0]), np.linalg.norm(q_theirs[4] - q_theirs[0])
        moved = p_theirs / s * s_gt
        theirs.append((moved - moved[0] + q_theirs[0])[ours_to_ho3d])
    ours = metrics.align_scale_translation(torch.from_numpy(prediction), torch.from_numpy(target))
    np.testing.assert_allclose(ours.numpy(), np.stack(theirs), atol=1e-6)
    nothing = torch.zeros(2, 21, 3)
    assert metrics.align_scale_translation(nothing, nothing + 1).isfinite().all()


def test_2d_pck_is_relative_to_the_hands_box():
    target = torch.tensor([[[0.0, 0], [40, 10], [20, 100]]])
    valid = torch.tensor([[True, True, False]])
    assert metrics.box_side(target).tolist() == [100]
    side = metrics.box_side(target, valid)
    assert side.tolist() == [40]
    errors = metrics.pixel_errors(target + torch.tensor([3.0, 4.0]), target, side, valid)
    assert errors[0, :2].tolist() == pytest.approx([0.125, 0.125])
    assert errors[0, 2].isnan()


# --- Gradients, devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["proper", "official"])
def test_gradients(form):
    prediction, target = (torch.from_numpy(x[:2, :6]).clone() for x in CASES["unrelated"])
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: metrics.pa_mpjpe(p, target, form=form), prediction)
    assert torch.autograd.gradcheck(lambda p: metrics.mpjpe(p, target)[..., None], prediction)
    valid = torch.tensor([[True, True, False, True, True, True]] * 2)
    target[~valid] = torch.nan
    metrics.pa_mpjpe(prediction, target, valid, form).sum().backward()
    assert prediction.grad.isfinite().all()


def test_single_precision_agrees_with_double():
    prediction, target = (torch.from_numpy(x) for x in CASES["near"])
    double = metrics.pa_mpjpe(prediction, target)
    single = metrics.pa_mpjpe(prediction.float(), target.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), double, atol=2e-3)


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="proper or official"):
        metrics.procrustes(torch.zeros(1, 21, 3), torch.zeros(1, 21, 3), form="similarity")  # type: ignore[arg-type]
