"""Who is in the picture: persons, their posed arms and what they wear, and how the camera looks at them."""

from __future__ import annotations

import numpy as np

from . import background, pose, shade, skin
from .capsules import deepest, radii, segments
from .model import hand_model

SPLITS = {"train": 0, "test": 1}
PEOPLE = {"train": 4000, "test": 800}
"""identities of each split; none is in both"""
VERSION = 1
"""part of every seed: raise it when the same seed gives another picture"""


def generator(split: str, *seed: int) -> np.random.Generator:
    """The random numbers of one picture or one person."""
    return np.random.default_rng([VERSION, SPLITS[split], *seed])


class Person:
    """A person: the identity (components,) of the hand and its skin, the same in every picture."""

    def __init__(self, split: str, number: int):
        random = generator(split, 1, number)
        self.number = number + SPLITS[split] * PEOPLE["train"]
        self.identity = np.clip(random.normal(0, 1, hand_model().components), -2.2, 2.2)
        self.skin = skin.sample(random)


class Arm:
    """One posed hand and forearm in its own frame, mm.

    Attributes:
        vertices: (V, 3) coarse. joints: (21, 3). axes, radii: its capsules. flexion: (5, 3). family: of the pose.
        skin, wear: parameters for `shade.materials`.

    Args:
        camera_from: (3,) unit direction of the camera in the arm's frame.
    """

    def __init__(self, person: Person, camera_from: np.ndarray, random: np.random.Generator):
        of = pose.body(person.identity)
        self.family, angles = pose.sample(of, random, camera_from)
        transforms, self.joints = pose.skeleton(of, angles)
        self.vertices = hand_model().pose(of.vertices, transforms)
        self.axes, self.radii = segments(self.joints), radii(of.heads)
        self.flexion = angles[:15].reshape(5, 3).astype(np.float32)
        self.skin, self.wear = skin.polished(person.skin, random), worn(random)

    def move(self, turn: np.ndarray, shift: np.ndarray) -> None:
        """Turn (3, 3), then shift (3,) everything."""
        for name in ("vertices", "joints", "axes"):
            setattr(self, name, getattr(self, name) @ turn.T + shift)


def worn(random: np.random.Generator) -> np.ndarray:
    """(18,) what an arm wears: a sleeve on four of ten, a ring on one, a watch or bracelet on one of ten."""
    w = np.zeros(shade.WEAR, np.float32)
    w[[shade.SLEEVE, shade.WATCH]], w[shade.RING] = -1e9, -1
    if random.random() < 0.4:
        w[shade.SLEEVE] = -random.uniform(8, 150)
        w[shade.CLOTH], w[shade.CLOTH2] = background.colour(random, 2)
        w[shade.STRIPE] = random.uniform(6, 40) if random.random() < 0.25 else 0
    metals = np.array([(0.75, 0.55, 0.25), (0.7, 0.7, 0.7), (0.7, 0.45, 0.36), (0.05, 0.05, 0.05)])
    if random.random() < 0.12:
        w[shade.RING], w[shade.RING_PLACE] = random.choice([1, 2, 3, 3, 4]), random.uniform(0.55, 0.7)
        w[shade.RING_COLOUR] = metals[random.integers(4)]
    if random.random() < 0.1 and w[shade.SLEEVE] < -75:
        w[shade.WATCH], w[shade.WATCH_METAL] = -random.uniform(18, 45), random.random() < 0.5
        w[shade.STRAP] = metals[random.integers(4)] if w[shade.WATCH_METAL] else random.uniform(0.01, 0.35, 3)
    return w


def random_rotation(random: np.random.Generator) -> np.ndarray:
    """(3, 3), uniform over SO(3): a normalised Gaussian quaternion."""
    w, x, y, z = (q := random.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def line_of_sight(random: np.random.Generator) -> np.ndarray:
    """(3,) unit direction from the camera to the hand: mostly within 16, at most 20 degrees off its axis."""
    aside, around = np.radians(min(abs(random.normal(0, 8)), 20)), random.uniform(0, 2 * np.pi)
    return np.array([np.sin(aside) * np.cos(around), np.sin(aside) * np.sin(around), np.cos(aside)])


def framed(joints: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """K (3, 3) of a square picture of side 1 around joints (21, 3) before the camera."""
    seen = joints[:, :2] / joints[:, 2:]
    low, high = seen.min(0), seen.max(0)
    fill = random.uniform(0.42, 0.68)  # a joint box widened by 1.5 to 2.4: it may turn inside the picture
    focal = min(fill / (high - low).max(), 6.5)
    centre = 0.5 - (low + high) / 2 * focal + random.uniform(-0.1, 0.1, 2) * min(1, 1.4 * (1 - fill))
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])


def companion(arm: Arm, person: Person, random: np.random.Generator) -> Arm | None:
    """The other hand, as a mirrored arm near the first, touching it at most; None if there is no room."""
    other = Arm(person, np.array([0.0, 1, 0]), random)
    mirror = np.diag([-1.0, 1, 1])
    checked = np.ones((19, 19), bool)
    other.move(mirror, np.zeros(3))
    extent = np.ptp(arm.joints, 0).max()
    for _ in range(12):
        other.move(random_rotation(random), np.zeros(3))
        way = random.normal(size=3) * (1, 1, 0.7)
        way *= extent * random.uniform(0.45, 0.95) / np.linalg.norm(way)
        target = arm.joints.mean(0) + way
        other.move(np.eye(3), target - other.joints.mean(0))
        depth = deepest(arm.axes, arm.radii, other.axes, other.radii, checked)[0]
        if depth < 1.5 and other.vertices[:, 2].min() > 0.6 * arm.joints[:, 2].min():
            return other
    return None
