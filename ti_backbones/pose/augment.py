"""Augmentation that turns images, joints and latents together, and how images are framed for the encoder.

Rotating an image about its centre turns root-relative joints by exactly the same rotation about the optical axis
(`o2.act_on_joints`), wherever the principal point lies: K moves with the image. Zoom and shift leave root-relative
joints as they are; so would another camera, of another focal length and viewing direction.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .. import o2
from ..images import CROP_SCALE, disc_mask, resample
from ..latent import LatentTransformer
from ..o2 import Element
from ..objective import recolour
from .recipe import Recipe

UNIFORMS = 10
"""uniform numbers that decide everything random about one image, besides its elements on latents"""

Frame = Literal["disc", "crop", "full"]
"""how images are framed for the encoder: as in pretraining (`images.view`), or whole, mean colour beyond their edge"""


def elements(u: Tensor, rotation: float, flip: bool) -> Element:
    """Elements of up to `rotation` degrees either way, half of them with a flip if `flip`: u (B, 2) uniform numbers."""
    angle = (u[:, 1].double() * 2 - 1) * math.radians(rotation)
    return Element((u[:, 0] < 0.5) & flip, torch.remainder(angle, o2.TAU))


def place(images: Tensor, g: Element, frame: Frame, zoom: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """g·x, enlarged and moved about, in one bilinear sampling, framed.

    Args:
        images: (B, C, S, S) floating, normalised: 0 stands where nothing is seen.
        g: B elements. frame: see `Frame`.
        zoom: (B,) factor by which things grow. shift: (B, 2) of the image's side, x right, y down.

    Returns:
        (B, C, S, S).
    """
    n, size = len(images), images.shape[-1]
    scale = torch.full((n,), CROP_SCALE if frame == "crop" else 1.0, dtype=torch.float64)
    scale = scale if zoom is None else scale / zoom.double()
    m = o2.matrix(o2.inverse(g)).cpu() * scale[:, None, None]
    offset = torch.zeros(n, 2, dtype=torch.float64) if shift is None else -2 * shift.double()
    # what is seen at u is taken from M (u + offset), in coordinates from -1 to 1
    unmoved = (m - torch.eye(2, dtype=torch.float64)).abs().amax() < 1e-9 and not offset.any()
    if not unmoved:
        images = resample(images, torch.cat([m, m @ offset[:, :, None]], 2), (size, size))
    if frame == "disc":
        images = torch.where(disc_mask(size, images.device), images, 0.0)
    return images


def augment_images(
    images: Tensor, joints: Tensor, side: Tensor, u: Tensor, recipe: Recipe, frame: Frame, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Training views of images, with their joints and the hands' sides.

    Args:
        images: (B, 3, S, S) in [0, 1]. joints: (B, J, 3), root-relative. side: (B,), see `heads.PoseHead`.
        u: (B, UNIFORMS) uniform numbers in [0, 1).
        mean, std: (3, 1, 1) normalisation.

    Returns:
        normalised, framed images; joints; sides.
    """
    if recipe.colour:
        images = recolour(images, u[:, 5:10].to(images.device), recipe.colour).sub_(mean).div_(std)
    else:
        images = (images - mean).div_(std)
    g = elements(u[:, :2], recipe.rotation, recipe.flip) if recipe.turns_images else o2.identity(len(images))
    zoom = torch.exp((u[:, 2] * 2 - 1) * math.log1p(recipe.zoom)) if recipe.zoom else None
    shift = (u[:, 3:5] * 2 - 1) * recipe.shift if recipe.shift else None
    views, g = place(images, g, frame, zoom, shift), g.to(joints.device)
    return views, o2.act_on_joints(g, joints), mirrored_side(g, side)


def augment_latents(
    z: Tensor, joints: Tensor, side: Tensor, u: Tensor, recipe: Recipe, transformer: LatentTransformer
) -> tuple[Tensor, Tensor, Tensor]:
    """T_g z with g·p for several g, at no encoder pass.

    Args:
        z: (B, D). joints: (B, J, 3). side: (B,). u: (B · copies, 2) uniform numbers.

    Returns:
        the same three, of copies · B rows.
    """
    copies = len(u) // len(z)
    g = elements(u, recipe.rotation, recipe.flip).to(z.device)
    z, joints, side = (x.repeat(copies, *[1] * (x.ndim - 1)) for x in (z, joints, side))
    return transformer(z, g), o2.act_on_joints(g, joints), mirrored_side(g, side)


def mirrored_side(g: Element, side: Tensor) -> Tensor:
    """The hands' sides (B,) after g: a flip makes a left hand of a right one."""
    return torch.where(g.flip.to(side.device), -side, side)
