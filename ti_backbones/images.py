"""The action of O(2) on images: flip, then rotate, in one warp about the exact centre.

Corners must not tell the angle. A *view* is therefore framed in one of two ways:

- ``disc``: every view, the unrotated one too, keeps only the centred disc that no rotation takes out
  of the image, and is constant outside it;
- ``crop``: every view is cut at `CROP_SCALE` of the source, so that none ever samples outside it.
  It loses half of the picture, and what the corners show changes with the angle, so that no encoder
  that looks there can be exactly isomorphic; for sources with room to spare.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .o2 import Element, identity, matrix

Frame = Literal["disc", "crop"]
FRAMES: tuple[Frame, ...] = ("disc", "crop")
CROP_SCALE = 0.70  # at most 1 / sqrt(2): the cut's corners stay inside the source at every angle
QUARTER_TOLERANCE = 1e-6  # radians
IN_CACHE = 2**19  # output pixels that a CPU works on at a time: their grid and copies stay in its cache
# by quarter turns + 4 · flip: whether the flip and the turns after it transpose, and what is reversed then
QUARTERS = [(False, ()), (True, (-2,)), (False, (-2, -1)), (True, (-1,))]
QUARTERS += [(False, (-1,)), (True, ()), (False, (-2,)), (True, (-2, -1))]


def act(g: Element, images: Tensor, size: int | None = None, scale: float = 1.0) -> Tensor:
    """Transform each image by its own element.

    On square images, elements within 1e-6 rad of a quarter turn, with or without flip, are exact
    permutations of the pixels (bit-equal to ``rot90`` and ``flip``). All others are one bilinear
    sampling, zero outside the source. Differentiable in the images, and in the angle if that asks
    for a gradient.

    Args:
        g: B elements.
        images: (B, C, H, W), floating or uint8; the pixel (0, 0) spans 0 to 1, the centre is
            (W / 2, H / 2).
        size: side of the square output; the source's own (H, W) if None.
        scale: share of the source's extent that the output covers, about the centre.

    Returns:
        (B, C, size, size), or (B, C, H, W), in the dtype of `images`.

    Raises:
        ValueError: if the batch sizes differ.
    """
    if len(g) != len(images):
        raise ValueError(f"{len(g)} group elements for {len(images)} images: give one for each")
    height, width = images.shape[-2:]
    out = (size, size) if size is not None else (height, width)
    unscaled = scale == 1.0 and out == (height, width)
    turns = g.angle.detach() / (math.pi / 2)
    quarter = (turns - turns.round()).abs() * (math.pi / 2) <= QUARTER_TOLERANCE
    if out[0] != out[1]:
        quarter &= turns.round().long() % 2 == 0
    if g.angle.requires_grad:
        quarter = torch.zeros_like(quarter)
    together = max(IN_CACHE // (out[0] * out[1]), 1) if images.device.type == "cpu" else len(images)
    if not quarter.any():
        if len(images) <= together:
            return _warp(g, images, out, scale)
        result = images.new_empty(*images.shape[:2], *out)
        for i in range(0, len(images), together):
            result[i : i + together] = _warp(g[i : i + together], images[i : i + together], out, scale)
        return result
    code = torch.where(quarter, turns.round().long() % 4 + 4 * g.flip.long(), -1)
    if unscaled and bool((code == 0).all()):
        return images
    result = images.new_empty(*images.shape[:2], *out)
    groups = [(c, (code == c).nonzero().squeeze(1)) for c in code.unique().tolist()]
    for c, index in ((c, part) for c, group in groups for part in group.split(together)):
        part = images[index.to(images.device)]
        if c < 0:
            part = _warp(g[index], part, out, scale)
        else:
            if not unscaled:
                part = _warp(identity(len(index)), part, out, scale)
            transposed, flipped = QUARTERS[c]
            part = (part.mT if transposed else part).flip(flipped)
        result[index.to(images.device)] = part
    return result


def _warp(g: Element, images: Tensor, out: tuple[int, int], scale: float) -> Tensor:
    """One bilinear sampling: output pixel u takes the source at scale · M_g⁻¹ u about the centre."""
    height, width = images.shape[-2:]
    source = torch.tensor([width, height], dtype=torch.float64) / 2
    # the output covers a square of the source's shorter side unless it keeps the source's shape
    target = source if out == (height, width) else source.min().expand(2)
    m = matrix(g).mT * (scale * target.to(g.angle)) / source.to(g.angle)[:, None]
    warped = resample(images, F.pad(m, (0, 1)), out)
    if not images.dtype.is_floating_point:
        warped = warped.round().clamp(0, 255)
    return warped.to(images.dtype)


def resample(
    images: Tensor, theta: Tensor, out: tuple[int, int], padding: Literal["zeros", "border"] = "zeros"
) -> Tensor:
    """One bilinear sampling: what is seen at (x, y) is taken from theta (x, y, 1); the image spans -1 to 1.

    Args:
        images: (B, C, H, W). theta: (B, 2, 3). out: height and width to give. padding: what is beyond the source.

    Returns:
        (B, C, *out), float64 if the images are, float32 otherwise.
    """
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    by_x, by_y, shift = theta.to(images.device, dtype)[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    x, y = (_centres(n, dtype, images.device) for n in reversed(out))
    with torch.autocast(images.device.type, enabled=False):
        grid = torch.addcmul(by_y * y[:, None] + shift, by_x, x)  # by coordinate: (B, 2, H, W), quicker than points
        return F.grid_sample(images.to(dtype), grid.permute(0, 2, 3, 1), "bilinear", padding, align_corners=False)


def _centres(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n,) centres of the pixels of a row that spans -1 to 1."""
    return (torch.arange(n, dtype=dtype, device=device) * 2 + (1 - n)) / n


@lru_cache(maxsize=32)
def disc_mask(size: int, device: torch.device | str = "cpu") -> Tensor:
    """(size, size) bool: pixels whose every rotation about the centre is sampled inside the image."""
    r = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    return r[:, None] ** 2 + r[None, :] ** 2 <= ((size - 1) / 2) ** 2


def view(g: Element, images: Tensor, size: int | None = None, frame: Frame = "disc", fill: float = 0.0) -> Tensor:
    """g·x, framed so that its corners say nothing of g.

    Args:
        g: B elements.
        images: (B, C, H, W), square.
        size: side of the view; the image's own if None.
        frame: "disc" or "crop", see the module.
        fill: what stands outside the disc.

    Returns:
        (B, C, size, size).

    Raises:
        ValueError: for images that are not square, or another frame.
    """
    if images.shape[-1] != images.shape[-2]:
        height, width = images.shape[-2:]
        raise ValueError(f"a view needs square images, not {height} x {width}: crop them first")
    if frame == "crop":
        return act(g, images, size, CROP_SCALE)
    if frame != "disc":
        raise ValueError(f"unknown frame '{frame}': one of {', '.join(FRAMES)}")
    turned = act(g, images, size)
    return torch.where(disc_mask(turned.shape[-1], turned.device), turned, fill).to(images.dtype)
