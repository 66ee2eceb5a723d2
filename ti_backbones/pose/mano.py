"""MANO [1] with the user's own model file: 48 axis-angle and 10 shape numbers to 21 joints (and 778 vertices).

The file is licensed to its user and travels with nothing here: it is read as data, without chumpy and without running
what a pickle asks for. Joints are MANO's 16 and five vertices at the finger tips, in this package's order; which
vertices, as in manopth, whence DexYCB's joints come. Axis-angles are absolute (`flat_hand_mean`).

[1] Romero, Tzionas, Black, Embodied Hands: modeling and capturing hands and bodies together, SIGGRAPH Asia 2017.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import plain_pickle
from ..errors import InputError, first_line

POSE, SHAPE = 48, 10
FILE = "MANO_RIGHT.pkl"
INERT = (
    "chumpy.ch.Ch",
    "chumpy.reordering.Select",
    *(f"scipy.sparse.{module}.csc_matrix" for module in ("csc", "_csc")),
)
TIPS = (745, 317, 444, 556, 673)
"""vertices at the tips of thumb, index, middle, ring and little finger"""
ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
"""our joints among MANO's 16 and the five tips"""
SHAPES = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, SHAPE),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
}


class Mano(nn.Module):
    """Forward kinematics and skinning of one MANO file.

    Args:
        path: MANO_RIGHT.pkl, or the folder that holds it.

    Attributes:
        sha256: of the file.

    Raises:
        InputError: if the file is missing, no MANO model, or of the left hand.
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor

    def __init__(self, path: Path):
        super().__init__()
        path = path / FILE if path.is_dir() else path
        arrays, parents = _read(path)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.parents = parents

    def forward(self, pose: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Joints and vertices in mm, in MANO's own frame turned by the root's axis-angle.

        Args:
            pose: (B, 48) axis-angles, the root's first. shape: (B, 10).

        Returns:
            (B, 21, 3) and (B, 778, 3).
        """
        turns = rotation_matrices(pose.unflatten(1, (16, 3)))
        shaped = self.v_template + torch.einsum("vck,bk->bvc", self.shapedirs, shape)
        joints = self.J_regressor @ shaped
        bent = (turns[:, 1:] - torch.eye(3, device=pose.device)).flatten(1)
        posed = shaped + torch.einsum("vck,bk->bvc", self.posedirs, bent)
        # each bone's turn and place: x -> turn x + place for points given in the rest pose
        turn, place = [turns[:, 0]], [joints[:, 0]]
        for j in range(1, 16):
            parent = self.parents[j]
            turn.append(turn[parent] @ turns[:, j])
            place.append((turn[parent] @ (joints[:, j] - joints[:, parent])[..., None])[..., 0] + place[parent])
        turn, place = torch.stack(turn, 1), torch.stack(place, 1)
        moved = torch.einsum("bjrc,bvjc->bvjr", turn, posed[:, :, None] - joints[:, None]) + place[:, None]
        vertices = torch.einsum("vj,bvjc->bvc", self.weights, moved)
        joints = torch.cat([place, vertices[:, list(TIPS)]], 1)[:, list(ORDER)]
        return joints * 1000, vertices * 1000

    def relative_joints(self, numbers: Tensor) -> Tensor:
        """Root-relative joints in mm of what a head gives: (B, 58), pose then shape -> (B, 21, 3)."""
        joints, _ = self(numbers[:, :POSE], numbers[:, POSE:])
        return joints - joints[:, :1]


def rotation_matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) -> (..., 3, 3), smooth at 0."""
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(k)


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[int]]:
    """Arrays of a MANO file in float32, metres, and each joint's parent."""
    wanted = "give --mano the MANO_RIGHT.pkl that https://mano.is.tue.mpg.de gives to registered users"
    if not path.is_file():
        raise InputError(f"no MANO file '{path}': {wanted}")
    try:
        content = plain_pickle.load(path, INERT)
        arrays = {name: np.asarray(_array(content[name]), np.float32) for name in SHAPES}
        arrays["shapedirs"] = arrays["shapedirs"][..., :SHAPE]
        parents = [int(p) for p in np.asarray(content["kintree_table"])[0][:16]]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"'{path}' is no MANO model ({first_line(e, 120)}): {wanted}") from e
    for name, shape in SHAPES.items():
        if arrays[name].shape != shape:
            raise InputError(f"'{path}' is no MANO model (its {name} is {arrays[name].shape}, not {shape}): {wanted}")
    if len(parents) != 16 or any(not 0 <= p < j for j, p in enumerate(parents) if j):
        raise InputError(f"'{path}' is no MANO model (its joints hang together as {parents}): {wanted}")
    joints = arrays["J_regressor"] @ arrays["v_template"]
    if joints[0, 0] < joints[1:, 0].mean():  # in its rest pose a right hand points to -x
        raise InputError(f"MANO file '{path}' is of the left hand, and left hands are shown as right ones: {wanted}")
    return arrays, parents


def _array(value: Any) -> np.ndarray:
    """A plain array, or what chumpy's and scipy's objects hold."""
    if isinstance(value, plain_pickle.Inert):
        state = value.state
        if value.name == "chumpy.ch.Ch":
            return np.asarray(state["x"])
        if value.name == "chumpy.reordering.Select":
            return _array(state["a"]).ravel()[np.asarray(state["idxs"])].reshape(state["preferred_shape"])
        out = np.zeros(state["_shape"])
        for column, (a, b) in enumerate(zip(state["indptr"][:-1], state["indptr"][1:], strict=True)):
            np.add.at(out[:, column], state["indices"][a:b], state["data"][a:b])
        return out
    return np.asarray(value)
