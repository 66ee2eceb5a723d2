"""Simple solids: what a hand holds, or what stands before it. Vertices in mm, closed triangle meshes."""

from __future__ import annotations

import numpy as np

from .background import colour
from .shade import BANDS, OBJECT_PARAMETERS, OBJECT_ROUGHNESS, PAINT, PAINT2


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """(F, 3) faces of a grid of vertices that closes around its columns."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def cylinder(radius: float, length: float, around: int = 28, along: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A capped cylinder along y, centred."""
    angle = np.arange(around) / around * 2 * np.pi
    profile = [(0, -0.5), (0.92, -0.5), (1, -0.485), *((1, t) for t in np.linspace(-0.46, 0.46, along))]
    profile += [(1, 0.485), (0.92, 0.5), (0, 0.5)]
    rings = [
        np.stack([radius * r * np.cos(angle), 0 * angle + length * t, radius * r * np.sin(angle)], -1)
        for r, t in profile
    ]
    return np.concatenate(rings), _grid_faces(len(profile), around)


def ball(radius: float, stretch: float = 1.0, around: int = 28, along: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of revolution about y, centred."""
    angle, polar = np.arange(around) / around * 2 * np.pi, np.linspace(1e-3, np.pi - 1e-3, along)
    rings = [
        np.stack(
            [
                radius * np.sin(p) * np.cos(angle),
                0 * angle - radius * stretch * np.cos(p),
                radius * np.sin(p) * np.sin(angle),
            ],
            -1,
        )
        for p in polar
    ]
    return np.concatenate(rings), _grid_faces(along, around)


def box(size: np.ndarray, cells: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A box (3,) with its own vertices on every side, so that its edges stay sharp, centred."""
    vertices, faces = [], []
    grid = np.linspace(-0.5, 0.5, cells)
    u, v = (g.ravel() for g in np.meshgrid(grid, grid))
    i, j = (g.ravel() for g in np.meshgrid(np.arange(cells - 1), np.arange(cells - 1)))
    a = j * cells + i
    quads = np.concatenate([np.stack([a, a + 1, a + cells], -1), np.stack([a + 1, a + cells + 1, a + cells], -1)])
    for axis in range(3):
        for side in (-0.5, 0.5):
            side_vertices = np.empty((len(u), 3))
            side_vertices[:, axis] = side
            side_vertices[:, (axis + 1) % 3], side_vertices[:, (axis + 2) % 3] = u, v
            faces.append((quads if side > 0 else quads[:, ::-1]) + len(u) * len(vertices))
            vertices.append(side_vertices * size)
    return np.concatenate(vertices), np.concatenate(faces)


def paint(random: np.random.Generator) -> np.ndarray:
    """(8,) parameters of an object's surface."""
    p = np.zeros(OBJECT_PARAMETERS, np.float32)
    p[PAINT], p[PAINT2] = colour(random, 2)
    p[BANDS] = random.uniform(18, 60) if random.random() < 0.5 else 0
    p[OBJECT_ROUGHNESS] = random.uniform(0.25, 0.9)
    return p


def held(axes: np.ndarray, radii: np.ndarray, joints: np.ndarray, random: np.random.Generator):
    """A solid that fills the grasp of a hand without entering it: vertices and faces, or None if nothing fits.

    Args:
        axes, radii: capsules (19, 2, 3), (19,) of the hand. joints: (21, 3).
    """
    middles = joints[[6, 7, 10, 11, 14, 15]]
    centre = 0.5 * (middles.mean(0) + joints[[2, 3, 4]].mean(0))
    across = joints[5] - joints[17]
    across = across / np.linalg.norm(across) + random.normal(0, 0.15, 3)
    across /= np.linalg.norm(across)
    points = axes[:, :1] + np.linspace(0, 1, 9)[None, :, None] * (axes[:, 1:] - axes[:, :1])  # (19, 9, 3)
    offsets = points - centre
    shape = random.choice(["cylinder", "ball", "box"], p=[0.5, 0.25, 0.25])
    if shape == "ball":
        room = (np.linalg.norm(offsets, axis=-1) - radii[:, None]).min()
    else:
        outward = offsets - (offsets @ across)[..., None] * across
        room = (np.linalg.norm(outward, axis=-1) - radii[:, None]).min()
    if room < 5:
        return None
    room = min(room, 45)
    if shape == "ball":
        vertices, faces = ball(room)
    elif shape == "cylinder":
        vertices, faces = cylinder(room, random.uniform(60, 190))
    else:
        side = room * np.sqrt(2) * 0.98
        vertices, faces = box(np.array([side, random.uniform(60, 160), side * random.uniform(0.3, 1)]))
    helper = np.cross(across, random.normal(size=3))
    helper /= np.linalg.norm(helper)
    turn = np.stack([helper, across, np.cross(helper, across)], 1)
    slide = random.uniform(-25, 25) if shape != "ball" else 0.0
    return vertices @ turn.T + centre + slide * across, faces


def before(joints: np.ndarray, random: np.random.Generator):
    """A solid between the camera, at the origin, and the hand: it hides about a quarter of it."""
    extent = np.ptp(joints[:, :2], 0).max()
    target = joints[random.integers(21)]
    vertices, faces = [
        lambda: cylinder(extent * random.uniform(0.05, 0.18), extent * 3),
        lambda: ball(extent * random.uniform(0.12, 0.25), random.uniform(0.7, 1.6)),
        lambda: box(extent * random.uniform([0.15, 0.2, 0.02], [0.4, 0.9, 0.3])),
    ][random.integers(3)]()
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    near = max(joints[:, 2].min() - random.uniform(20, 60), 80) / target[2]
    reach = np.abs(vertices @ turn.T)[:, 2].max()
    return vertices @ turn.T + target * near - np.array([0, 0, reach]), faces
