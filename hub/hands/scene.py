"""One picture: everything random about it drawn from (split, seed), then rendered.

The right hand is drawn; a left hand is the whole picture in a mirror.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from scipy import sparse

from ti_backbones.data.sample import Sample, project

from . import background, camera, light, shade, skin, things
from .cast import PEOPLE, Arm, Person, companion, framed, generator, line_of_sight, random_rotation
from .model import hand_model, normals
from .raster import interpolate, rasterize, visibility

OVERSAMPLING = 2
SECOND_HAND, HELD, BEFORE = 0.15, 0.5, 0.08
"""shares of pictures with another hand, of grasps that hold something, and with a thing before the hand"""


@cache
def _smoothing() -> sparse.csr_matrix:
    """(V', V') mean over the neighbours on the fine mesh: how light spreads below the skin."""
    faces = hand_model().faces
    a, b = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    count = int(faces.max()) + 1
    ring = sparse.csr_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), shape=(count, count))
    ring.data[:] = 1
    return sparse.csr_matrix(sparse.diags(1 / np.asarray(ring.sum(1)).ravel()) @ ring, dtype=np.float32)


def _softened(irradiance: np.ndarray) -> np.ndarray:
    """Irradiance (V', 3) spread below the skin: red far, green less, blue hardly."""
    near = [irradiance]
    for _ in range(8):
        near.append(_smoothing() @ near[-1])
    return np.stack(
        [
            0.4 * irradiance[:, 0] + 0.6 * near[8][:, 0],
            0.55 * irradiance[:, 1] + 0.45 * near[3][:, 1],
            0.65 * irradiance[:, 2] + 0.35 * near[1][:, 2],
        ],
        1,
    )


_AMBIENT = np.array(
    [
        (np.cos(a) * np.sqrt(1 - h * h), np.sin(a) * np.sqrt(1 - h * h), h)
        for a, h in ((np.pi * (1 + 5**0.5) * (i + 0.5), 1 - 2 * (i + 0.5) / 16) for i in range(16))
    ],
    np.float32,
)
"""(16, 3) directions spread over the sphere, for ambient occlusion"""


class Mesh:
    """Everything of a scene in one list of triangles.

    Attributes:
        faces: (F, 3). material, finger: (F,). attributes: (V, 17) for `shade`.
    """

    def __init__(self, arms: list[Arm], thing: tuple[np.ndarray, np.ndarray] | None, lit: light.Light):
        hand = hand_model()
        vertices = [arm.vertices.astype(np.float32) for arm in arms]
        faces = [hand.coarse if i == 0 else hand.coarse[:, ::-1] for i in range(len(arms))]
        if thing is not None:
            vertices.append(thing[0].astype(np.float32))
            faces.append(thing[1].astype(np.int32))
        outward = [normals(v, f) for v, f in zip(vertices, faces, strict=True)]
        starts = np.cumsum([0, *map(len, vertices)])
        together = np.concatenate([f + s for f, s in zip(faces, starts, strict=False)]).astype(np.int32)
        visible = np.empty((starts[-1], 17), np.float32)
        towards = np.concatenate([_AMBIENT, lit.sun[None]]).astype(np.float32)
        every = np.concatenate(vertices)
        scope = np.ptp(every, 0).max()
        visibility(every, np.concatenate(outward), together, towards, 128, np.float32(scope / 100), visible)
        parts = [
            self._part(v, n, f, visible[s : s + len(v)], lit, i < len(arms), mirrored=i == 1)
            for i, (v, n, f, s) in enumerate(zip(vertices, outward, faces, starts, strict=False))
        ]
        starts = np.cumsum([0, *(len(p[0]) for p in parts)])
        self.attributes = np.concatenate([p[0] for p in parts])
        self.faces = np.concatenate([p[1] + s for p, s in zip(parts, starts, strict=False)]).astype(np.int32)
        kinds = [shade.HAND, shade.OTHER_HAND][: len(arms)] + [shade.OBJECT] * (thing is not None)
        self.material = np.concatenate([np.full(len(p[1]), k, np.int8) for p, k in zip(parts, kinds, strict=True)])
        owner = [skin.face_fingers()] * len(arms) + ([] if thing is None else [np.full(len(parts[-1][1]), -1, np.int8)])
        self.finger = np.concatenate(owner)

    @staticmethod
    def _part(vertices, outward, faces, visible, lit: light.Light, arm: bool, mirrored: bool):
        """Attributes (V, 17) and faces of one solid; arms are subdivided and lit softly."""
        facing = np.maximum(outward @ _AMBIENT.T, 0)
        open_ = (visible[:, :16] * facing).sum(1) / np.maximum(facing.sum(1), 1e-3)
        ambient, sunlit = lit.irradiance(outward) * (0.1 + 0.9 * open_[:, None]), visible[:, 16]
        place = np.zeros((len(vertices), skin.FEATURES), np.float32)
        if arm:
            hand = hand_model()
            vertices, ambient, sunlit = (hand.smooth @ a for a in (vertices, ambient, sunlit))
            faces = hand.faces[:, ::-1] if mirrored else hand.faces
            vertices = vertices.astype(np.float32)
            outward, place = normals(vertices, faces), skin.features()
        else:
            place[:, :3] = vertices - vertices.mean(0)
        sunlit = np.clip(sunlit, 0, 1)
        direct = np.maximum(outward @ lit.sun, 0) * sunlit
        irradiance = np.maximum(ambient, 0.01) + direct[:, None] * lit.sun_colour
        if arm:
            irradiance = _softened(irradiance)
        columns = np.column_stack([place, vertices, outward, irradiance, sunlit])
        return columns.astype(np.float32), faces


def clothed(mesh: Mesh, arms: list[Arm]) -> None:
    """Sleeves and straps stand off the skin."""
    size = len(skin.features())
    for i, arm in enumerate(arms):
        part = mesh.attributes[i * size : (i + 1) * size]
        y = part[:, 1]
        sleeve = np.clip((arm.wear[shade.SLEEVE] - y) / 2.5, 0, 1)
        fold = np.sin(y / 6 + 2 * np.sin(part[:, 0] / 15)) + np.sin(part[:, 2] / 9 + y / 13)
        strap = np.clip((9.5 - np.abs(y - arm.wear[shade.WATCH])) / 1.5, 0, 1)
        part[:, shade.POSITION : shade.NORMAL] += (sleeve * (4 + 0.7 * fold) + 1.8 * strap)[:, None] * part[
            :, shade.NORMAL : shade.LIGHT
        ]


def draw(split: str, seed: int, size: int) -> tuple[Sample, bytes]:
    """The picture of a seed (RGB of side `size`, joints in camera-frame mm, K, mask, handedness, who) and its JPEG.

    Args:
        split: "train" or "test"; they share no person, no environment and no photograph.
    """
    random = generator(split, 0, seed)
    person = Person(split, int(random.integers(PEOPLE[split])))
    turn, sight = random_rotation(random), line_of_sight(random)
    arm, lit = Arm(person, -sight @ turn, random), light.sample(split, random)
    thing = None
    if arm.family == "grasp" and random.random() < HELD:
        thing = things.held(arm.axes, arm.radii, arm.joints, random)
    distance = np.exp(random.uniform(np.log(350), np.log(1200)))
    placed = arm.joints @ turn.T
    shift = sight * distance - (placed.min(0) + placed.max(0)) / 2
    arm.move(turn, shift)
    if thing is not None:  # it moves with the hand
        thing = (thing[0] @ turn.T + shift, thing[1])
    elif random.random() < BEFORE:
        thing = things.before(arm.joints, random)
    intrinsics = framed(arm.joints, random)
    second = companion(arm, person, random) if random.random() < SECOND_HAND else None
    arms = [arm] if second is None else [arm, second]
    mesh = Mesh(arms, thing, lit)
    clothed(mesh, arms)
    radiance, alpha, mask = _render(mesh, arms, things.paint(random), lit, intrinsics, size, random)
    behind, surroundings, close = background.sample(split, lit, size, random)
    image = camera.photograph(radiance, alpha, behind, lit.sun if close else None, size, random)
    k = np.round(np.diag([size, size, 1.0]) @ intrinsics, 3).astype(np.float32)
    joints = np.round(arm.joints, 2).astype(np.float32)
    what = "held" if arm.family == "grasp" and thing is not None else "before" if thing is not None else "none"
    sample = Sample(
        key=f"{seed:08d}",
        image=image,
        joints_mm=joints,
        joints_px=project(joints, k).astype(np.float32),
        intrinsics=k,
        valid=np.ones(21, bool),
        right=True,
        mask=mask,
        extra={
            "split": split,
            "seed": seed,
            "identity": person.number,
            "darkness": round(person.skin.darkness, 3),
            "pose": arm.family,
            "object": what,
            "second_hand": second is not None,
            "environment": lit.environment.name,
            "background": surroundings,
        },
    )
    if random.random() < 0.5:
        sample = sample.mirror()
        sample.mirrored, sample.crop = False, None  # a left hand, not a mirrored file
    sample.image, packed = camera.compressed(sample.image, random)
    return sample, packed


def _render(mesh: Mesh, arms: list[Arm], paint: np.ndarray, lit: light.Light, intrinsics, size: int, random):
    """Linear radiance (S, S, 3) times coverage, coverage (S, S) and mask (S, S) of the hand's own skin."""
    side = size * OVERSAMPLING
    position = mesh.attributes[:, shade.POSITION : shade.NORMAL]
    depth = np.ascontiguousarray(position[:, 2])
    pixel = (position[:, :2] / np.maximum(depth, 1)[:, None] * intrinsics[0, 0] + intrinsics[:2, 2]) * side
    inverse, face_of = np.zeros((side, side), np.float32), np.full((side, side), -1, np.int32)
    weights = np.zeros((side, side, 3), np.float32)
    rasterize(pixel.astype(np.float32), depth, mesh.faces, inverse, face_of, weights)
    pixels = np.zeros((side, side, shade.CHANNELS), np.float32)
    interpolate(face_of, weights, mesh.faces, mesh.attributes, pixels)
    albedo, out = np.zeros((2, side, side, 3), np.float32)
    height, rough = np.zeros((2, side, side), np.float32)
    kind = np.ones((side, side), np.int8)
    both = (arms * 2)[:2]
    shade.materials(
        face_of,
        pixels,
        mesh.material,
        mesh.finger,
        np.stack([a.flexion for a in both]),
        np.stack([a.skin for a in both]),
        np.stack([a.wear for a in both]),
        paint,
        skin.noise_volume(),
        skin.PALM_LINES,
        albedo,
        height,
        rough,
        kind,
    )
    strength = float(np.clip(0.35 + 0.4 * lit.sun_colour.mean(), 0.3, 0.9))
    shade.shade(
        face_of,
        pixels,
        albedo,
        height,
        rough,
        lit.environment.blurred * lit.tint.astype(np.float32),
        lit.turn,
        lit.sun,
        lit.sun_colour,
        strength,
        random.uniform(0.35, 0.85),
        out,
    )
    drawn = (face_of >= 0).astype(np.float32)
    area = cv2.INTER_AREA
    mine = ((face_of >= 0) & (kind == 0)).astype(np.float32)
    return (
        cv2.resize(out, (size, size), interpolation=area),
        cv2.resize(drawn, (size, size), interpolation=area),
        cv2.resize(mine, (size, size), interpolation=area) > 0.5,
    )
