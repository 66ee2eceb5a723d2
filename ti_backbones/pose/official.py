"""The files that the sets' own evaluation scripts take, from predictions on their evaluation splits.

Predictions are mirrored back where the image was mirrored, and put at the labelled root: these models give
root-relative joints. Read the scripts' absolute errors accordingly.

- DexYCB, `evaluate_hpe.py`: lines "index,x0,y0,z0,...", mm; every labelled frame must be there.
- FreiHAND and HO-3D, `eval.py`: JSON [joints, vertices] in metres, in the split's order (HO-3D: OpenGL axes and its own
  order of joints). Vertices are 0 here; read the scripts' mesh errors as not computed.
- InterHand2.6M: `Dataset.evaluate` of its code takes arrays in memory: an npz of these, `dict(numpy.load(...))`, in the
  order of its data list (single hands, then interacting), in its heat-map units and default configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np

from ..checkpoint import replacing, write_atomically
from ..data.hand_set import PIXEL_CENTRE
from ..data.ho3d import ORDER as HO3D_ORDER
from ..data.images import Samples
from ..data.interhand import ORDER as INTERHAND_ORDER
from ..data.interhand import InterHand
from ..data.sample import project
from ..errors import InputError
from .predictions import Predictions

TO_HO3D = np.argsort(HO3D_ORDER)
"""our joints in HO-3D's order"""
VERTICES = 778
HEATMAP, INPUT, DEPTH_MM = 64, 256, 400.0
"""InterHand2.6M's default output_hm_shape, input_img_shape and bbox_3d_size"""


def write_official(predictions: Predictions, samples: Samples, spec: str, folder: Path) -> Path:
    """Write the file of the set that a spec names.

    Returns:
        the file.

    Raises:
        InputError: for a set that has no such file, or one that cannot be written.
    """
    kind = spec.partition(":")[0]
    if kind not in WRITERS:
        raise InputError(f"--official goes with {', '.join(WRITERS)}, and the data is '{spec}': leave it out")
    return WRITERS[kind](predictions, samples, folder)


def original_joints(predictions: Predictions) -> np.ndarray:
    """(N, 21, 3) float64 predictions in mm, as in the file: at the labelled root, mirrored back."""
    joints = predictions.absolute().double().numpy()
    return joints * np.where(predictions.hands.tensors["mirrored"].numpy()[:, None, None], [-1.0, 1, 1], 1.0)


def _indices(predictions: Predictions) -> list[int]:
    return [int(extra["index"]) for extra in predictions.extra]


def _dexycb(predictions: Predictions, samples: Samples, folder: Path) -> Path:
    rows = sorted(zip(_indices(predictions), original_joints(predictions).reshape(-1, 63).tolist(), strict=True))
    text = "".join(",".join([str(index), *(f"{v:.4f}" for v in row)]) + "\n" for index, row in rows)
    path = folder / "dexycb_results.txt"
    write_atomically(path, text.encode())
    return path


def _in_list(predictions: Predictions, samples: Samples, joints_m: np.ndarray, path: Path) -> Path:
    """[joints, vertices] with a row for every image of the split; rows of hands that were left out are 0."""
    indices = _indices(predictions)
    all_joints = np.zeros((max(len(samples), max(indices) + 1), 21, 3))
    all_joints[indices] = joints_m
    vertices = np.zeros((VERTICES, 3), int).tolist()
    content = [np.round(all_joints, 7).tolist(), [vertices] * len(all_joints)]
    write_atomically(path, json.dumps(content).encode())
    return path


def _freihand(predictions: Predictions, samples: Samples, folder: Path) -> Path:
    return _in_list(predictions, samples, original_joints(predictions) / 1000, folder / "freihand_pred.json")


def _ho3d(predictions: Predictions, samples: Samples, folder: Path) -> Path:
    joints_m = original_joints(predictions)[:, TO_HO3D] / 1000 * [1, -1, -1]
    return _in_list(predictions, samples, joints_m, folder / "ho3d_pred.json")


def _interhand(predictions: Predictions, samples: Samples, folder: Path) -> Path:
    """joint_coord (A, 42, 3), rel_root_depth (A, 1), hand_type (A, 2), inv_trans (A, 2, 3)."""
    hands = cast(InterHand, samples)
    source = hands.root / "annotations" / hands.split / f"InterHand2.6M_{hands.split}_data.json"
    annotations = json.loads(source.read_text())["annotations"]
    listed = sorted(annotations, key=lambda a: a["hand_type"] == "interacting")  # stable: single hands first
    row = {annotation["id"]: i for i, annotation in enumerate(listed)}
    coordinates = np.zeros((len(listed), 2, 21, 3))
    joints, places = original_joints(predictions), predictions.hands.tensors["index"].tolist()
    for i, index in enumerate(_indices(predictions)):
        xy = project(joints[i], hands.labels(places[i]).intrinsics) - PIXEL_CENTRE
        depth = joints[i, :, 2] - joints[i, 0, 2]
        z = (depth / (DEPTH_MM / 2) + 1) / 2 * HEATMAP
        side = 0 if predictions.right[i] else 1
        coordinates[row[index], side, INTERHAND_ORDER] = np.column_stack([xy * HEATMAP / INPUT, z])
    count, path = len(listed), folder / "interhand_preds.npz"
    types = {"right": (1.0, 0.0), "left": (0.0, 1.0), "interacting": (1.0, 1.0)}
    with replacing(path) as [staged], staged.open("wb") as f:
        np.savez_compressed(
            f,
            joint_coord=coordinates.reshape(count, 42, 3),
            rel_root_depth=np.full((count, 1), HEATMAP / 2),
            hand_type=np.array([types[a["hand_type"]] for a in listed]),
            inv_trans=np.tile([[1.0, 0, 0], [0, 1, 0]], (count, 1, 1)),
        )
    return path


WRITERS = {"dexycb": _dexycb, "freihand": _freihand, "ho3d": _ho3d, "interhand": _interhand}
