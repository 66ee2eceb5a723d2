"""Hand poses: families of finger angles within joint limits, without self-penetration.

A pose is an array (24,) of radians: flexion of 5 x 3 phalanges, abduction of the 5 fingers (for the thumb: away from
the palm), then opposition of the thumb, arch of the palm, and flexion and deviation of the wrist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from .capsules import overlap, radii
from .model import FINGER, LOWER_ARM, METACARPAL, ORDER, PARENTS, chain, hand_model, joints_of, rotation

FAMILIES = {"free": 0.24, "open": 0.18, "fist": 0.08, "pinch": 0.11, "point": 0.08, "spread": 0.12, "grasp": 0.19}
"""name -> its share of all poses"""
ABDUCTION, OPPOSITION, ARCH, WRIST_FLEXION, WRIST_DEVIATION = 15, 20, 21, 22, 23
_FINGER = ((-20, 88), (-3, 105), (-5, 80))
LIMITS = np.radians(
    [
        *((-15, 45), (-8, 55), (-18, 75)),  # thumb: carpometacarpal, metacarpophalangeal, interphalangeal
        *_FINGER * 4,
        *((-18, 42), (-18, 18), (-14, 14), (-16, 16), (-22, 22)),
        (-15, 38),
        (0, 11),
        (-55, 55),
        (-25, 22),
    ]
)
"""(24, 2) lowest and highest angle"""
OVERLAP_MM = 1.5
"""how deep capsules may meet where skin touches skin"""


@dataclass(frozen=True)
class Body:
    """What posing needs of one identity: rest vertices (V, 3), heads (B, 3), tips (5, 3), in mm."""

    vertices: np.ndarray
    heads: np.ndarray
    tips: np.ndarray


def body(identity: np.ndarray) -> Body:
    """The body of identity coefficients, in standard deviations."""
    hand = hand_model()
    vertices, heads = hand.shape(identity)
    return Body(vertices, heads, hand.tips(vertices))


@njit(cache=True)
def _wrist_turn(flexion, deviation):
    """(3, 3) rotation of the forearm against the hand."""
    x, _, z = np.eye(3)
    return rotation(x, flexion) @ rotation(z, deviation)


@njit(cache=True)
def local_rotations(axes, pose):
    """(B, 3, 3) rotations of the bones in the rest frame from `HandModel.axes` and the angles (24,) of a pose."""
    out, (x, y, z) = np.zeros((22, 3, 3)), np.eye(3)
    for i in range(22):
        out[i] = np.eye(3)
    for finger in range(5):
        for j in range(3):
            turn = rotation(axes[finger, j, 0], pose[3 * finger + j])
            if j == 0 and finger == 0:
                turn = rotation(y, -pose[ABDUCTION]) @ rotation(axes[0, 0, 2], pose[OPPOSITION]) @ turn
            elif j == 0:
                turn = rotation(z, pose[ABDUCTION + finger]) @ turn
            out[FINGER + 3 * finger + j] = turn
    out[METACARPAL + 3] = rotation(x, pose[ARCH])
    out[METACARPAL + 2] = rotation(x, pose[ARCH] / 2)
    out[LOWER_ARM] = _wrist_turn(pose[WRIST_FLEXION], pose[WRIST_DEVIATION])
    return out


def skeleton(of: Body, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bone transforms (B, 3, 4) and joints (21, 3) of a posed body."""
    transforms = chain(of.heads, local_rotations(hand_model().axes, pose), PARENTS, ORDER)
    return transforms, joints_of(of.heads, of.tips, transforms)


# ---- sampling

_DEGREE = np.pi / 180


def relaxed() -> np.ndarray:
    """(24,) a loosely open hand: what a pose that penetrates is opened towards."""
    pose = np.zeros(24)
    pose[3:15] = np.tile(np.radians([14, 20, 12]), 4)
    pose[ABDUCTION : ABDUCTION + 5] = np.radians([18, 7, 2, -4, -9])
    pose[OPPOSITION] = np.radians(8)
    return pose


def _curls(family: str, random: np.random.Generator) -> np.ndarray:
    """(4,) how far index to little finger are closed, 0 to 1."""
    level = random.uniform(0, 1)
    if family == "free":
        return np.clip(level + random.normal(0, 0.3, 4), 0, 1)
    if family in ("open", "spread"):
        return np.clip(random.normal(0.1, 0.08, 4), 0, 0.3)
    if family == "fist":
        return np.clip(random.normal(0.92, 0.06, 4), 0.75, 1)
    if family == "grasp":
        return np.clip(random.uniform(0.22, 0.62) + random.normal(0, 0.06, 4), 0.15, 0.75)
    if family == "pinch":
        rest = np.clip(level + random.normal(0, 0.12, 4), 0.05, 0.95)
        rest[0] = random.uniform(0.35, 0.62)
        return rest
    straight = random.random(4) < (0.12, 0.25, 0.12, 0.2)  # point: the index, sometimes others with it
    straight[0] = True
    return np.where(straight, random.uniform(0, 0.15, 4), random.uniform(0.78, 1, 4))


def _thumb(family: str, random: np.random.Generator) -> np.ndarray:
    """(5,) degrees: the thumb's three flexions, abduction, opposition."""
    low, high = {
        "fist": ((12, 12, 12, 2, 5), (40, 50, 70, 28, 30)),
        "point": ((10, 10, 10, 2, 3), (40, 50, 70, 28, 30)),
        "pinch": ((0, 0, 0, 15, 8), (25, 30, 40, 40, 38)),
        "grasp": ((-10, 0, 0, 14, 0), (14, 24, 32, 42, 28)),
        "spread": ((-15, -8, -15, 5, -10), (5, 10, 10, 38, 10)),
    }.get(family, ((-15, -5, -15, -10, -10), (25, 40, 60, 32, 25)))
    return random.uniform(low, high)


def _angles(family: str, random: np.random.Generator) -> np.ndarray:
    """(24,) radians of one pose of a family, within the limits; it may penetrate itself."""
    curls = _curls(family, random)
    pose = np.zeros(24)
    spread = {"spread": 1.5, "open": 0.8}.get(family, 0.45)
    for i, curl in enumerate(curls):
        knuckle, middle = -10 + 95 * curl + random.normal(0, 8), 102 * curl + random.normal(0, 8)
        if family == "free" and random.random() < 0.35:
            knuckle, middle = random.uniform(-15, 85), random.uniform(0, 100)
        last = 0.65 if curl < 0.7 else 0.4  # the palm is in the way
        pose[3 + 3 * i : 6 + 3 * i] = knuckle, middle, last * middle + random.normal(0, 7)
        room = 1 - np.clip(knuckle, 0, 88) / 120  # a bent finger cannot spread
        pose[ABDUCTION + 1 + i] = room * ((1.45 - i) * 5.5 * spread + random.normal(0, 3.5))
    pose[[0, 1, 2, ABDUCTION, OPPOSITION]] = _thumb(family, random)
    pose[ARCH] = random.uniform(0, 10)
    return np.clip(pose * _DEGREE, LIMITS[:, 0], LIMITS[:, 1])


def _pinched(of: Body, random: np.random.Generator, tries: int = 40) -> np.ndarray:
    """The pinch, among several, whose thumb and index tips come closest without penetrating."""
    best, closest, radius = relaxed(), np.inf, radii(of.heads)
    for _ in range(tries):
        pose = _angles("pinch", random)
        _, joints = skeleton(of, pose)
        gap = np.linalg.norm(joints[4] - joints[8])
        if gap < closest and overlap(joints, radius)[0] <= OVERLAP_MM:
            best, closest = pose, gap
    return best


def sample(of: Body, random: np.random.Generator, camera: np.ndarray) -> tuple[str, np.ndarray]:
    """A family's name and the angles (24,) of a random pose that does not penetrate itself.

    Args:
        camera: (3,) unit direction of the camera in the hand's frame: the wrist bends away from it.
    """
    family = str(random.choice(list(FAMILIES), p=list(FAMILIES.values())))
    pose = _pinched(of, random) if family == "pinch" else _angles(family, random)
    pose[WRIST_FLEXION:] = _wrist(random, camera)
    return family, opened(of, pose)


def _wrist(
    random: np.random.Generator, camera: np.ndarray, clear: float = np.radians(60), tries: int = 24
) -> np.ndarray:
    """(2,) flexion and deviation for which the forearm does not come out of the camera, as no forearm does."""
    best, widest = np.zeros(2), -1.0
    for i in range(tries):
        angles = random.normal(0, np.radians((22, 9))) * (1 + i / 5)
        angles = np.clip(angles, LIMITS[WRIST_FLEXION:, 0], LIMITS[WRIST_FLEXION:, 1])
        forearm = _wrist_turn(*angles) @ np.array([0.0, -1, 0])
        angle = np.arccos(np.clip(forearm @ camera, -1, 1))
        if angle > widest:
            best, widest = angles, angle
        if angle > clear:
            break
    return best


def opened(of: Body, pose: np.ndarray, step: float = 0.04) -> np.ndarray:
    """The pose (24,) with the fingers that penetrate opened step by step towards `relaxed` until none does.

    Their last joints give way first, as against the palm in a fist.
    """
    target, shares, radius = relaxed(), np.zeros(5), radii(of.heads)
    while True:
        share = np.zeros(24)
        share[:15] = np.minimum(np.outer(shares, (1, 1, 4)), 1).ravel()
        share[ABDUCTION:OPPOSITION], share[OPPOSITION] = shares, shares[0]
        out = pose + share * (target - pose)
        depth, *capsules = overlap(skeleton(of, out)[1], radius)
        fingers = sorted(c // 3 for c in capsules if c < 15 and shares[c // 3] < 1)
        if fingers[:1] == [0]:  # the thumb makes room for the others
            fingers = [0]
        if depth <= OVERLAP_MM or not fingers:
            return out
        shares[fingers] = np.minimum(shares[fingers] + step, 1)
