"""Pose heads: from a latent z (B, D) to numbers that describe a pose.

A head gives 60 numbers for root-relative joints (20 joints, (x, y, z), in units of `UNIT_MM`; the root is 0), or what
another representation of the pose asks for (`mano`). Kinds: ``linear``, ``mlp``, ``paper`` (TI-Net's, arXiv 2502.12535:
D-1024-1024-60 with ReLU), ``articulated`` and ``equivariant`` (`EquivariantPoseHead`). The last two say joints twice:
where they lie, and how the hand is bent, in whatever frame; `as_joints` lays the second on the first (`laid`), and each
has an error of its own to minimise (`objective.pose_loss`).

Heads that standardise their input take its statistics once, from the latents they start on (`calibrate`), so that
nothing depends on what else is in a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data.sample import JOINTS
from ..errors import InputError
from ..latent import LatentTransformer
from .equivariant import EquivariantPoseHead
from .head_parts import POSE, UNIT_MM, PoseHead, Standardise, laid, mlp

KINDS = ("articulated", "equivariant", "mlp", "linear", "paper")


class LinearHead(PoseHead):
    """A linear map of the standardised latent: the linear probe."""

    kind = "linear"

    def __init__(self, dim: int, outputs: int = POSE):
        super().__init__()
        self.standardise, self.out = Standardise(dim), nn.Linear(dim, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def calibrate(self, z: Tensor) -> None:
        self.standardise.calibrate(z)

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        return self.out(self.standardise(z))


class MLPHead(PoseHead):
    """Two hidden layers on the standardised latent."""

    kind = "mlp"

    def __init__(self, dim: int, outputs: int = POSE, width: int = 512, depth: int = 2, dropout: float = 0.2):
        super().__init__(width=width, depth=depth, dropout=dropout)
        self.standardise, self.hidden = Standardise(dim), mlp(dim, width, depth, dropout)
        self.out = nn.Linear(width, outputs * 2 if self.articulates else outputs)

    def calibrate(self, z: Tensor) -> None:
        self.standardise.calibrate(z)

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        return self.out(self.hidden(self.standardise(z)))


class ArticulatedHead(MLPHead):
    """The MLP head that says where the joints lie and, apart, how the hand is bent; other numbers than joints once."""

    kind = "articulated"

    def __init__(self, dim: int, outputs: int = POSE, **options):
        self.articulates = outputs == POSE
        super().__init__(dim, outputs, **options)


class PaperHead(PoseHead):
    """TI-Net's: D-1024-1024-outputs with ReLU, on the latent as it is."""

    kind = "paper"

    def __init__(self, dim: int, outputs: int = POSE):
        super().__init__()
        layers = nn.Linear(dim, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, outputs)
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        return self.layers(z)


HEADS: dict[str, Any] = {c.kind: c for c in (LinearHead, MLPHead, ArticulatedHead, PaperHead, EquivariantPoseHead)}


def make(kind: str, dim: int, transformer: LatentTransformer | None = None, outputs: int = POSE, **options) -> PoseHead:
    """Build a head by name.

    Args:
        kind: one of `KINDS`. dim: D. outputs: numbers to give.
        transformer: the backbone's latent transformer, for the equivariant head.
        options: of the head, such as `width` and `dropout`; those it does not know are an error.

    Raises:
        InputError: for another name, or a head that does not fit the backbone.
    """
    if kind not in HEADS:
        raise InputError(f"unknown pose head '{kind}': one of {', '.join(KINDS)}")
    if kind != EquivariantPoseHead.kind:
        return HEADS[kind](dim, outputs, **options)
    if transformer is None:
        raise InputError("the equivariant head needs a latent transformer, and the model has none: take --head mlp")
    if transformer.dim != dim or outputs != POSE:
        raise InputError(
            f"the equivariant head gives joints of a latent of width {transformer.dim}, not {outputs} numbers"
            f" of one of width {dim}: take --head articulated"
        )
    return EquivariantPoseHead(transformer, **options)


def said(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where the joints lie, and how the hand is bent, each root-relative in mm: (B, 60 or 120) -> twice (B, 21, 3)."""
    joints = numbers.unflatten(1, (-1, JOINTS - 1, 3)) * UNIT_MM
    joints = torch.cat([torch.zeros_like(joints[:, :, :1]), joints], 2)
    return joints[:, 0], joints[:, -1]


def as_joints(numbers: Tensor) -> Tensor:
    """Root-relative joints in mm, the root first and 0: (B, 60 or 120) -> (B, 21, 3)."""
    joints, articulation = said(numbers)
    return joints if numbers.shape[1] == POSE else laid(articulation, joints)[0]
