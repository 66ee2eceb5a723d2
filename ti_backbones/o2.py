"""The group O(2) of flips and in-plane rotations, and its action on points, joints and intrinsics.

An element g = (f, θ) means: *flip horizontally if f, then rotate by θ counter-clockwise as a viewer
sees it*. With h∘g denoting "g first, then h",

    (f_h, θ_h) ∘ (f_g, θ_g) = (f_h xor f_g, θ_h + (-1)^f_h θ_g),

the composition table of TI-Net (arXiv 2502.12535). Image coordinates are x right, y down, so that
counter-clockwise by θ is the matrix M_g = R(-θ) diag(-1, 1)^f.

Angles are radians throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TAU = 2 * math.pi


@dataclass(frozen=True)
class Element:
    """A batch of B group elements.

    Attributes:
        flip: (B,) bool, mirror x before rotating.
        angle: (B,) float64, counter-clockwise rotation in radians.
    """

    flip: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return self.flip.shape[0]

    def __getitem__(self, index) -> Element:
        return Element(self.flip[index], self.angle[index])

    def __matmul__(self, other: Element) -> Element:
        """h @ g = h∘g: `other` acts first."""
        return compose(self, other)

    def to(self, device) -> Element:
        return Element(self.flip.to(device), self.angle.to(device))


def element(
    flip: bool | Sequence[bool] | Tensor = False,
    angle: float | Sequence[float] | Tensor = 0.0,
    batch: int | None = None,
    device: torch.device | str | None = None,
) -> Element:
    """Make a batch of elements from scalars, sequences or tensors.

    Args:
        flip: bool, or (B,) bools.
        angle: radians, counter-clockwise; a float or (B,) floats. Gradients flow through a tensor.
        batch: B, to expand scalars to; taken from `flip` or `angle` if absent.
        device: where to put the element.

    Raises:
        ValueError: if lengths disagree, or an angle is not finite.
    """
    flip = torch.as_tensor(flip, dtype=torch.bool, device=device).reshape(-1)
    where = torch.device(flip.device if device is None else device)
    precise = torch.float32 if where.type == "mps" else torch.float64
    angle = torch.as_tensor(angle, dtype=precise, device=where).reshape(-1)
    n = batch if batch is not None else max(len(flip), len(angle))
    for name, t in (("flip", flip), ("angle", angle)):
        if len(t) not in (1, n):
            raise ValueError(f"{name} has {len(t)} entries for a batch of {n}: give one, or {n}")
    return Element(flip.expand(n), angle.expand(n))


def identity(batch: int = 1, device=None) -> Element:
    """B copies of the neutral element."""
    return element(False, 0.0, batch, device)


def cat(elements: Sequence[Element]) -> Element:
    """Batches of elements, one after the other."""
    return Element(torch.cat([g.flip for g in elements]), torch.cat([g.angle for g in elements]))


def compose(h: Element, g: Element) -> Element:
    """h∘g: g acts first, then h. Angles come back in [0, 2π)."""
    sign = 1.0 - 2.0 * h.flip.to(h.angle.dtype)
    return Element(h.flip ^ g.flip, torch.remainder(h.angle + sign * g.angle, TAU))


def inverse(g: Element) -> Element:
    """g⁻¹. A flip with a rotation is a reflection, hence its own inverse."""
    return Element(g.flip, torch.where(g.flip, g.angle, torch.remainder(-g.angle, TAU)))


def from_uniform(u_flip: Tensor, u_angle: Tensor) -> Element:
    """Map uniform numbers in [0, 1) to Haar-distributed elements.

    Args:
        u_flip: (B,) decides the flip, u_angle: (B,) the angle.
    """
    return Element(u_flip < 0.5, u_angle.double() * TAU)


def sample(batch: int, generator: torch.Generator | None = None, device=None) -> Element:
    """B elements drawn uniformly (Haar measure): flips with probability 1/2, angles in [0, 2π)."""
    u = torch.rand(2, batch, generator=generator, dtype=torch.float64)
    return from_uniform(u[0], u[1]).to(device)


def matrix(g: Element, frequency: int | Tensor = 1) -> Tensor:
    """The real irreducible representation ρ_k(g) = R(-kθ) diag(-1, 1)^f.

    Args:
        g: B elements.
        frequency: k; k = 1 is the action on (x right, y down) itself. A tensor (M,) of frequencies
            gives all of them at once.

    Returns:
        (B, 2, 2), or (B, M, 2, 2) for M frequencies.
    """
    angle, sign = g.angle, 1.0 - 2.0 * g.flip.to(g.angle.dtype)
    if isinstance(frequency, Tensor):
        angle, sign = angle[:, None] * frequency.to(angle), sign[:, None].expand(-1, len(frequency))
    else:
        angle = angle * frequency
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * sign, s, -s * sign, c], -1).unflatten(-1, (2, 2))


def act_on_points(g: Element, points: Tensor, center=0.0) -> Tensor:
    """Move image points: p' = c + M_g (p - c).

    Args:
        g: B elements.
        points: (B, ..., 2) pixels, x right, y down.
        center: c, the crop's centre: (W / 2, H / 2) where the first pixel spans 0 to 1. A number,
            (2,), or (B, 2).

    Returns:
        (B, ..., 2).
    """
    m = matrix(g).to(points)
    center = torch.as_tensor(center, dtype=points.dtype, device=points.device)
    if center.ndim == 2:
        center = center.reshape(len(center), *[1] * (points.ndim - 2), 2)
    return torch.einsum("bij,b...j->b...i", m, points - center) + center


def act_on_joints(g: Element, joints: Tensor) -> Tensor:
    """Turn camera-frame joints about the optical axis, or mirror them: M_g on (x, y), z unchanged.

    With `act_on_intrinsics` it is exact: the moved joints project onto the moved pixels. A flip makes
    a left hand of a right one.

    Args:
        g: B elements.
        joints: (B, ..., 3), any unit, x right, y down, z forward.

    Returns:
        (B, ..., 3).
    """
    return torch.cat([act_on_points(g, joints[..., :2]), joints[..., 2:]], -1)


def act_on_intrinsics(g: Element, intrinsics: Tensor, center) -> Tensor:
    """Move K with the image, so that K'·(g·X) = g·(K·X) for every joint X.

    K' = A K B⁻¹, A the motion of the pixels about `center` and B that of the joints. Where fx = fy
    only the principal point changes; otherwise K' gains the off-diagonal terms that exactness needs.

    Args:
        g: B elements.
        intrinsics: (B, 3, 3).
        center: the crop's centre in pixels: a number, (2,), or (B, 2).

    Returns:
        (B, 3, 3).
    """
    m = matrix(g).to(intrinsics)
    k = intrinsics.clone()
    k[:, :2, :2] = m @ intrinsics[:, :2, :2] @ m.mT
    k[:, :2, 2] = act_on_points(g, intrinsics[:, :2, 2], center)
    return k
