"""Pose heads: from a latent z (B, D) to numbers that describe a pose.

A head gives `outputs` numbers: 60 for root-relative joints (20 joints, (x, y, z), in units of `UNIT_MM`; the root
is 0), or what another representation of the pose asks for (`mano`). Kinds: ``linear``, ``mlp``, ``paper`` (TI-Net's,
arXiv 2502.12535: D-1024-1024-60 with ReLU) and ``equivariant`` (`EquivariantPoseHead`).

Heads that standardise their input take its statistics once, from the latents they start on (`calibrate`), so that
nothing depends on what else is in a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data.sample import JOINTS
from ..errors import InputError
from ..latent import LatentTransformer, O2Representation

UNIT_MM = 100.0  # a hand's joints lie about so far from its wrist
POSE = 3 * (JOINTS - 1)
KINDS = ("equivariant", "mlp", "linear", "paper")
FLOOR = 0.1  # of the latent's mean standard deviation: coordinates that vary less than this are not blown up


class PoseHead(nn.Module):
    """Base of the heads.

    Attributes:
        kind: the name that `make` knows it by.
        options: what `make` needs besides to build it again, as plain JSON values.
    """

    kind = ""

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
        self.out = nn.Linear(width, outputs)

    def calibrate(self, z: Tensor) -> None:
        self.standardise.calibrate(z)

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        return self.out(self.hidden(self.standardise(z)))


class PaperHead(PoseHead):
    """TI-Net's: D-1024-1024-outputs with ReLU, on the latent as it is."""

    kind = "paper"

    def __init__(self, dim: int, outputs: int = POSE):
        super().__init__()
        layers = nn.Linear(dim, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, outputs)
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        return self.layers(z)


class EquivariantPoseHead(PoseHead):
    """pose(T_g z) = g·pose(z) for every g in O(2), to rounding, whatever the weights: joints that turn and mirror
    exactly with the latent, so that left and right hands, at any in-plane rotation, share one head.

    A flip makes a left hand of a right one. Where the side is known the law is therefore
    pose(T_g z, side (-1)^f) = g·pose(z, side); without it the head has to see in the latent which hand it is.

    With q = y - i x for a plane (x, y) of frequency k of P(z - μ), g takes q to e^{-ikθ} q, and to its conjugate first
    if it flips. Products therefore have frequencies of their own: conj(q_a) q_b has b - a. From real mixtures a_k, b_k
    of each frequency's planes come

    - invariants: the part of z that P does not see, |a_k|, Re conj(a_k) b_k, Re conj(a_1) conj(a_k) b_{k+1}, and
      products of two pseudo-scalars; an MLP reads them;
    - pseudo-scalars τ, which change sign under a flip: the sign blocks, Im conj(a_k) b_k, the hand's side;
    - vectors of frequency 1, which move as points do: a_1, b_1, conj(a_k) b_{k+1}, and i τ a_1.

    The pose is S A: axes A in space, whose (x, y) are sums of these vectors and whose z are numbers, and each joint's
    coordinates S along them, which do not move; the MLP gives all coefficients. So a hand's shape and its orientation
    are told apart.

    Args:
        transformer: the latent transformer whose law the head inherits; P and μ are copied and stay as they are.
        width, depth: of the MLP. channels: mixtures of each frequency. dropout: in the MLP.
        axes: how many.

    Raises:
        InputError: for a transformer of another kind, or one without planes of frequency 1.
    """

    kind = "equivariant"
    projection: Tensor
    centre: Tensor
    plane_scale: Tensor
    sign_scale: Tensor

    def __init__(
        self,
        transformer: LatentTransformer,
        width: int = 256,
        channels: int = 32,
        depth: int = 2,
        dropout: float = 0.2,
        axes: int = 3,
    ):
        super().__init__(width=width, channels=channels, depth=depth, dropout=dropout, axes=axes)
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
        self.signs, self.planes = transformer.signs, [n for n in transformer.blocks[1:] if n]
        self.frequencies = [k for k, n in enumerate(transformer.blocks) if k and n]
        self.steps = [i for i in range(len(self.planes) - 1) if self.frequencies[i + 1] == self.frequencies[i] + 1]
        with torch.no_grad():
            training = transformer.training
            self.register_buffer("projection", transformer.eval().projection().detach().clone())
            transformer.train(training)
        self.register_buffer("centre", transformer.mean.detach().clone())
        self.standardise = Standardise(transformer.dim)
        self.register_buffer("plane_scale", torch.ones(sum(self.planes)))
        self.register_buffer("sign_scale", torch.ones(self.signs))
        self.mix_a, self.mix_b = (
            nn.ParameterList(nn.Parameter(torch.randn(channels, n) / n**0.5) for n in self.planes) for _ in range(2)
        )
        self.mix_signs = nn.Linear(self.signs, channels, bias=False) if self.signs else None
        self.mix_side = nn.Parameter(torch.randn(channels))
        vectors = channels * (4 + len(self.steps))
        invariants = channels * (2 * len(self.planes) + len(self.steps) + 5) + transformer.dim
        self.hidden = mlp(invariants, width, depth, dropout)
        self.vectors, self.axes = vectors, axes
        self.out_axes, self.out_shape = nn.Linear(width, axes * (vectors + 1)), nn.Linear(width, axes * (JOINTS - 1))

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The invariant rest (B, D), sign coordinates (B, S) and planes as (Re q, Im q) (B, planes, 2)."""
        centred = z - self.centre
        y = centred @ self.projection.mT
        xy = y[:, self.signs :].unflatten(1, (-1, 2))
        return centred - y @ self.projection, y[:, : self.signs], torch.stack([xy[..., 1], -xy[..., 0]], -1)

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        rest, signs, q = self.split(z.detach().float())
        self.standardise.calibrate(rest)
        floor = FLOOR**2 * (z - z.mean(0)).square().mean()
        # one scale for the two axes of a plane, and no shift: anything else would break the law
        self.plane_scale.copy_((q.square().mean((0, 2)) + floor).rsqrt().clamp(max=1e12))
        self.sign_scale.copy_((signs.square().mean(0) + floor).rsqrt().clamp(max=1e12))

    def forward(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # the law holds to the rounding of float32
            return self._forward(z.float(), z.new_zeros(len(z)).float() if side is None else side.to(z.device).float())

    def _forward(self, z: Tensor, side: Tensor) -> Tensor:
        rest, signs, q = self.split(z)
        planes = (q * self.plane_scale[:, None]).split(self.planes, 1)
        a = [torch.einsum("bnc,mn->bmc", p, w) for p, w in zip(planes, self.mix_a, strict=True)]
        b = [torch.einsum("bnc,mn->bmc", p, w) for p, w in zip(planes, self.mix_b, strict=True)]
        unit = [_bounded(v) for v in a]
        squares = [_conj_times(u, v) for u, v in zip(unit, b, strict=True)]
        steps = [_conj_times(unit[i], b[i + 1]) for i in self.steps]
        pseudo = sum((s[..., 1] for s in squares), torch.zeros_like(squares[0][..., 1])) / len(squares)
        odd = self.mix_signs(signs * self.sign_scale) if self.mix_signs is not None else torch.zeros_like(pseudo)
        tau = odd + pseudo
        known = side[:, None] * self.mix_side
        turned = torch.stack([-unit[0][..., 1], unit[0][..., 0]], -1)  # i a
        vectors = torch.cat([a[0], b[0], *steps, turned * tau[..., None], turned * known[..., None]], 1)
        invariants = [self.standardise(rest), *(s[..., 0] for s in squares), *(_length(v) for v in a)]
        invariants += [_conj_times(unit[0], s)[..., 0] for s in steps]
        invariants += [odd * odd, pseudo * pseudo, odd * pseudo, odd * side[:, None], pseudo * side[:, None]]
        hidden = self.hidden(torch.cat(invariants, 1))
        weights, depth = self.out_axes(hidden).split([self.axes * self.vectors, self.axes], 1)
        q_axes = weights.unflatten(1, (self.axes, self.vectors)) @ vectors / self.vectors**0.5
        axes = torch.stack([-q_axes[..., 1], q_axes[..., 0], depth], -1)
        return (self.out_shape(hidden).unflatten(1, (JOINTS - 1, self.axes)) @ axes).flatten(1)


def _conj_times(u: Tensor, v: Tensor) -> Tensor:
    """conj(u) v of complex numbers (..., 2)."""
    re = u[..., 0] * v[..., 0] + u[..., 1] * v[..., 1]
    return torch.stack([re, u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]], -1)


def _bounded(u: Tensor) -> Tensor:
    """u / sqrt(1 + |u|²): products with it stay of the size of the other factor."""
    return u / (1 + u.square().sum(-1, keepdim=True)).sqrt()


def _length(u: Tensor) -> Tensor:
    """A smooth length: sqrt(1 + |u|²) - 1."""
    return (1 + u.square().sum(-1)).sqrt() - 1


HEADS: dict[str, Any] = {c.kind: c for c in (LinearHead, MLPHead, PaperHead, EquivariantPoseHead)}


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
            f" of one of width {dim}: take --head mlp"
        )
    return EquivariantPoseHead(transformer, **options)


def as_joints(numbers: Tensor) -> Tensor:
    """Root-relative joints in mm, the root first and 0: (B, 60) -> (B, 21, 3)."""
    joints = numbers.unflatten(1, (JOINTS - 1, 3)) * UNIT_MM
    return torch.cat([torch.zeros_like(joints[:, :1]), joints], 1)
