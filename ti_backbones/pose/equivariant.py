"""The pose head whose prediction turns and mirrors exactly with the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import o2
from ..data.sample import JOINTS
from ..errors import InputError
from ..latent import LatentTransformer, O2Representation
from ..o2 import Element
from .head_parts import POSE, PoseHead, Standardise, laid, mlp
from .metrics import proper_svd


class EquivariantPoseHead(PoseHead):
    """pose(T_g z) = g·pose(z) for every g in O(2), to rounding, whatever the weights: joints that turn and mirror
    exactly with the latent, so that left and right hands, at any in-plane rotation, share one head.

    It is the average of an MLP over the group, pose(z) = mean over a of a⁻¹·MLP(T_a z), which only a latent transformer
    affords: the encoder runs once. Where the MLP should already have the law, but for its errors, averaging leaves the
    law and lowers the errors (`mean_pose` is the mean). All angles would be an integral; n are taken, evenly spaced
    from a frame that turns with the latent, so that the law holds for every g and not for these n alone: if c(z) is the
    rotation after which a plane of P(z - μ) points right, then c(T_g z) = c(z) g⁻¹, and the latents T_{r c} z that the
    MLP sees, r = 2π j / n, are the same for z and T_g z. The plane is the longest of those whose frequency divides n:
    c is then defined up to one of the r. (Frame averaging, Puny et al., arXiv 2110.03336, with n frames: with one the
    pose would jump wherever another plane becomes the longest.)

    In training the average is one over steps: the MLP sees each latent at one random angle, and the law is that of
    the expectation. Fitting averages would let errors at different angles cancel on the training hands, so that few
    labels would be learned by heart.

    A flip makes a left hand of a right one: the law is pose(T_g z, side (-1)^f) = g·pose(z, side). The MLP reads right
    hands: a left hand's latent is flipped, and its pose back. Where the side is unknown it reads both, and the average
    is over these too.

    Args:
        transformer: the latent transformer whose law the head inherits; P and μ are copied and stay as they are.
        articulates: see `heads`. width, depth: of the MLP. dropout: in the MLP. angles: n.

    Raises:
        InputError: for a transformer of another kind, or one without planes of frequency 1.
    """

    kind = "equivariant"
    articulates = True
    telling: Tensor

    def __init__(
        self,
        transformer: LatentTransformer,
        articulates: bool = True,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.2,
        angles: int = 8,
    ):
        super().__init__(articulates=articulates, width=width, depth=depth, dropout=dropout, angles=angles)
        self.articulates = articulates
        if not isinstance(transformer, O2Representation):
            raise InputError(
                f"the equivariant head needs a latent transformer of kind 'o2', and this one is"
                f" '{transformer.kind}': take --head mlp, or a model pretrained with --preset o2"
            )
        if not transformer.blocks[1:] or not transformer.blocks[1]:
            raise InputError(
                f"the equivariant head needs planes of frequency 1, and the latent transformer's blocks are"
                f" {transformer.blocks}: take --head mlp, or a model of another rank"
            )
        self.angles = angles
        self.law = O2Representation(transformer.dim, blocks=transformer.blocks)
        self.law.load_state_dict(transformer.state_dict())
        weight = self.law.weight.detach()
        del self.law.weight
        self.law.register_buffer("weight", weight)  # not to be trained
        frequency = self.law.frequencies[self.law.plane]
        self.register_buffer("telling", angles % frequency == 0, persistent=False)
        self.standardise, self.hidden = Standardise(transformer.dim), mlp(transformer.dim, width, depth, dropout)
        self.out = nn.Linear(width, POSE * (1 + articulates))

    def train(self, mode: bool = True) -> EquivariantPoseHead:
        super().train(mode)
        self.law.eval()  # P is computed once
        return self

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        z = z.detach().to(self.out.weight.dtype)
        self.standardise.calibrate(self._seen(z, torch.zeros_like(z[:, 0], dtype=torch.bool))[0])

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # the law holds to the rounding of float32
            z = z.to(self.out.weight.dtype)
            side = z.new_zeros(len(z)) if side is None else side.to(z.device)
            flip, unknown = side < 0, side == 0
            if self.training:
                flip = torch.where(unknown, torch.rand_like(z[:, 0]) < 0.5, flip)
                return self._said(z, flip).flatten(1)
            said = self._said(z, flip)
            if unknown.any():
                mirrored = self._said(z, ~flip)
                said = torch.cat([said, torch.where(unknown[:, None, None, None, None], mirrored, said)], 1)
            poses = said[:, :, 0]
            return mean_pose(*laid(said[:, :, -1], poses) if self.articulates else (poses,)).flatten(1)

    def _said(self, z: Tensor, flip: Tensor) -> Tensor:
        """a⁻¹·MLP(T_a z), (B, n, 1 or 2, 20, 3), for the elements a of `_seen`: joints, and the articulation."""
        seen, a = self._seen(z, flip)
        joints = self.out(self.hidden(self.standardise(seen))).unflatten(1, (-1, 3))
        return o2.act_on_joints(o2.inverse(a), joints).unflatten(1, (-1, JOINTS - 1)).unflatten(0, (len(z), -1))

    def _seen(self, z: Tensor, flip: Tensor) -> tuple[Tensor, Element]:
        """T_a z (B n, D), and the B n elements a; in training n is 1, and the angle random."""
        if self.training:
            angles = o2.TAU * torch.rand_like(z[:, :1]).double()
        else:
            steps = torch.arange(self.angles, dtype=torch.float64, device=z.device) * (o2.TAU / self.angles)
            angles = self._frame(z.detach(), flip)[:, None] + steps
        n = angles.shape[1]
        a = Element(flip.repeat_interleave(n), angles.flatten())
        return self.law(z.repeat_interleave(n, 0), a), a

    def _frame(self, z: Tensor, flip: Tensor) -> Tensor:
        """The angle (B,) by which a latent has to turn, after a flip or not, for its longest plane to point right."""
        planes = self.law.coordinates(z)[:, self.law.signs :].unflatten(1, (-1, 2))
        lengths = torch.where(self.telling, planes.square().sum(-1), -1.0)
        longest = lengths.argmax(1)
        x, y = planes[torch.arange(len(z), device=z.device), longest].double().unbind(1)
        return torch.atan2(y, torch.where(flip, -x, x)) / self.law.frequencies[self.law.plane[longest]]


def mean_pose(poses: Tensor, certain: Tensor | None = None) -> Tensor:
    """A pose of the mean orientation and the mean shape of n root-relative poses: (B, n, J, 3) -> (B, J, 3).

    The mean of the joints themselves is no hand where the orientations differ: along the axes that they disagree on it
    shrinks. So all are first turned, about the root, as the mean of the joints is turned; one for which it is unclear
    how (its second and third singular values cancel) has little weight, and so has one that is not `certain` (B, n).
    """
    given = torch.ones_like(poses[:, :, 0, 0]) if certain is None else certain
    mean = (given[..., None, None] * poses).sum(1)
    with torch.no_grad():
        # the rotation of each pose onto the mean, and how well it is determined
        u, s, vt = proper_svd(poses.double().mT @ mean.double()[:, None])
        turn = u @ vt
        weight = given * (s[..., 1] + s[..., 2]) / s[..., 0].clamp(min=1e-30) + 1e-9
        weight = weight / weight.sum(1, keepdim=True)
    return (weight[..., None, None].to(poses) * (poses @ turn.to(poses))).sum(1)
