"""What pose heads are made of: their base class, standardised inputs, hidden layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.sample import JOINTS
from .metrics import proper_svd

UNIT_MM = 100.0  # a hand's joints lie about so far from its wrist
POSE = 3 * (JOINTS - 1)  # numbers that say where the joints are
FLOOR = 0.1  # of the latent's mean standard deviation: coordinates that vary less than this are not blown up


class PoseHead(nn.Module):
    """Base of the heads.

    Attributes:
        kind: the name that `make` knows it by.
        options: what `make` needs besides to build it again, as plain JSON values.
        articulates: whether it says joints twice, as `laid` needs them.
    """

    kind = ""
    articulates = False

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def calibrate(self, z: Tensor) -> None:
        """Take the input's statistics from latents z (N, D)."""

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        """What describes the pose.

        Args:
            z: (B, D).
            side: (B,) of the hands: 1 right, -1 left, 0 unknown. Heads that are not equivariant do not look at it.

        Returns:
            (B, outputs).
        """
        raise NotImplementedError


def laid(articulation: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
    """A hand in a frame of its own, turned and scaled about the root so that it lies on joints as well as it can.

    Joints of the least error are no hand where the orientation is uncertain: they are an average of hands, flattened
    along the axes that these disagree on. They still say where the hand lies; how it is bent is said apart.

    Args:
        articulation, joints: (..., J, 3), relative to the root.

    Returns:
        s R articulation (..., J, 3), of least Σ‖s R a - p‖² with det R = +1 and s >= 0; and how well R is determined
        (...), 0 where another one does as well.
    """
    product = joints.double().mT @ articulation.double()
    u, s, vt = proper_svd(product.nan_to_num(0, 0, 0))
    size = articulation.double().square().sum((-1, -2)).clamp(min=1e-30)
    linear = u @ vt * (s.sum(-1) / size)[..., None, None] + 0 * product  # what is not finite stays so
    certain = (s[..., 1] + s[..., 2]) / s[..., 0].clamp(min=1e-30)
    return articulation @ linear.mT.to(articulation), certain.to(articulation)


class Standardise(nn.Module):
    """(x - mean) / deviation, coordinate by coordinate, with statistics that are set once."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def calibrate(self, x: Tensor) -> None:
        x = x.detach().float()
        variance = (x - x.mean(0)).square().mean(0)
        self.mean.copy_(x.mean(0))
        self.deviation.copy_((variance + FLOOR**2 * variance.mean()).sqrt().clamp(min=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def mlp(dim: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    """`depth` layers of width `width`: linear, layer norm, GELU, dropout."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else dim, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
