"""SimCLR [1] and PeCLR [2] around any timm encoder, with their papers' augmentations on whole batches.

Both attract the projections of two views of one image and repel those of other images, by NT-Xent [1, equation 1]
from `lightly`. PeCLR undoes the geometry first [2]: with views t_i, its equivariant loss compares t_i⁻¹ f(t_i x), where
f(x) is read as points in the image's plane; so the projection has to move with the image.

[1] A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709.
[2] PeCLR: Self-Supervised 3D Hand Pose Estimation from monocular RGB via Equivariant Contrastive Learning,
    arXiv 2106.05953.
"""

from __future__ import annotations

import math
import os
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import o2
from ..backbone import TIBackbone
from ..images import disc_mask, resample
from ..o2 import Element
from ..pose.augment import elements, place

TEMPERATURE = 0.5  # [1, appendix B.9] for small batches; [2]'s too
PROJECTION = 128
JITTER = (0.8, 0.8, 0.8, 0.2)  # brightness, contrast, saturation, hue, [1, appendix A] at strength 1
POINT_SCALE = 0.5  # of PeCLR's points at the start, where the image spans -1 to 1
ROTATION = 45.0  # degrees either way; this and the two below are those of PeCLR's code
SHIFT = 0.12  # of the image's side either way
ZOOM = (0.83, 1.39)
NUMBERS = 20
"""uniform numbers that decide one view"""


def nt_xent() -> nn.Module:
    """NT-Xent of `lightly`.

    Raises:
        ModuleNotFoundError: without it (extra [compare]).
    """
    os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # else its import asks a server
    return import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)


def projector(dim: int) -> nn.Sequential:
    """SimCLR's head of two layers [1], whose output has mean 0 and variance 1 over a batch."""
    return nn.Sequential(
        nn.Linear(dim, dim, bias=False),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Linear(dim, PROJECTION, bias=False),
        nn.BatchNorm1d(PROJECTION, affine=False),
    )


# --- Colours ----------------------------------------------------------------------------------------------------------


def jitter(images: Tensor, u: Tensor) -> Tensor:
    """Colour jitter of four in five images, [1, appendix A]; the hue turns about the grey axis.

    Args:
        images: (B, 3, H, W) in [0, 1]. u: (B, 5) uniform numbers.
    """
    s = (u * 2 - 1).to(images)[:, :, None, None]
    out = (images * (1 + JITTER[0] * s[:, 0:1])).clamp(0, 1)
    out = _blend(out, _grey(out).mean((2, 3), keepdim=True), 1 + JITTER[1] * s[:, 1:2])
    out = _blend(out, _grey(out), 1 + JITTER[2] * s[:, 2:3])
    angle = s[:, 3, :, 0] * JITTER[3] * 2 * math.pi  # (B, 1)
    cosine, sine = angle.cos()[:, :, None], angle.sin()[:, :, None]
    turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(images) / 3**0.5
    m = cosine * torch.eye(3).to(images) + (1 - cosine) / 3 + sine * turn
    out = torch.einsum("bij,bjhw->bihw", m, out).clamp(0, 1)
    return torch.where(u[:, 4, None, None, None].to(images) < 0.8, out, images)


def drop_colour(images: Tensor, u: Tensor) -> Tensor:
    """One image in five without colour: images (B, 3, H, W), u (B,)."""
    return torch.where(u[:, None, None, None].to(images.device) < 0.2, _grey(images).expand_as(images), images)


def blur(images: Tensor, u: Tensor) -> Tensor:
    """Gaussian blur of half of the images, sigma 0.1 to 2 pixels of 224, a tenth of the side wide: u (B, 2)."""
    n, channels, height, width = images.shape
    reach = max(height // 20, 1)
    sigma = (0.1 + 1.9 * u[:, :1]).to(images) * (height / 224)
    at = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]
    x = F.pad(images, (reach,) * 4, "reflect").view(1, n * channels, height + 2 * reach, width + 2 * reach)
    x = F.conv2d(F.conv2d(x, kernel, groups=n * channels), kernel.mT, groups=n * channels).view_as(images)
    return torch.where(u[:, 1, None, None, None].to(images.device) < 0.5, x, images)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114]).to(images)
    return torch.einsum("c,bchw->bhw", weights, images)[:, None]


def _blend(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * images + (1 - share) * other).clamp(0, 1)


# --- Geometry ---------------------------------------------------------------------------------------------------------


def random_crop(images: Tensor, u: Tensor) -> Tensor:
    """Cut 8 to 100 % of each image, 3:4 to 4:3, enlarge it to the whole, mirror half, [1, appendix A].

    Args:
        images: (B, C, S, S). u: (B, 5) uniform numbers.
    """
    area, ratio = 0.08 + 0.92 * u[:, 0], torch.exp((u[:, 1] * 2 - 1) * math.log(4 / 3))
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    centre = (u[:, 2:4] * 2 - 1) * (1 - half)
    theta = torch.zeros(len(u), 2, 3, dtype=u.dtype)
    theta[:, 0, 0] = torch.where(u[:, 4] < 0.5, -half[:, 0], half[:, 0])
    theta[:, 1, 1] = half[:, 1]
    theta[:, :, 2] = centre
    return resample(images, theta, (images.shape[-2], images.shape[-1]), "border")


def motion(u: Tensor) -> tuple[Element, Tensor, Tensor]:
    """PeCLR's rotations, zooms (B,) and shifts (B, 2) of the side: u (B, 5) uniform numbers."""
    low, high = (math.log(z) for z in ZOOM)
    g = elements(u[:, :2], ROTATION, flip=False)
    return g, torch.exp(low + (high - low) * u[:, 2]), (u[:, 3:5] * 2 - 1) * SHIFT


def undo(points: Tensor, g: Element, zoom: Tensor, shift: Tensor) -> Tensor:
    """Where the points of a view (`augment.place`) lie in its source: t⁻¹ of [2].

    Args:
        points: (B, K, 2), x right, y down, about the centre; the image spans -1 to 1.
        g, zoom, shift: B of each, see `motion`.
    """
    points = (points - 2 * shift.to(points)[:, None]) / zoom.to(points)[:, None, None]
    return o2.act_on_points(o2.inverse(g).to(points.device), points)


# --- Methods ----------------------------------------------------------------------------------------------------------


class SimCLR(nn.Module):
    """SimCLR [1]: crop, flip, colour jitter, grey, blur; NT-Xent on the projections of two views.

    Args:
        ti: its encoder is trained; its latent transformer is not.
        mean, std: (3, 1, 1) normalisation of the images.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, ti: TIBackbone, mean: Tensor, std: Tensor):
        super().__init__()
        self.ti, self.projector, self.loss = ti, projector(ti.latent_dim), nt_xent()
        self.register_buffer("image_mean", mean.clone(), persistent=False)
        self.register_buffer("image_std", std.clone(), persistent=False)

    def forward(self, images: Tensor, u: Tensor) -> dict[str, Tensor]:
        """The scalar "loss" of images (B, 3, S, S) in [0, 1], their views decided by u (B, 2 NUMBERS or more)."""
        halves = u[:, :NUMBERS], u[:, NUMBERS : 2 * NUMBERS]
        views = torch.cat([self.view(images, half) for half in halves])
        z = self.ti(views.contiguous(memory_format=torch.channels_last))
        with torch.autocast(images.device.type, enabled=False):
            projected = self.moved_back(self.projector(z.float()), torch.cat(halves))
            return {"loss": self.loss(*projected.split(len(images)))}

    def view(self, images: Tensor, u: Tensor) -> Tensor:
        """A view of each image, normalised and framed: u (B, NUMBERS)."""
        out = blur(drop_colour(jitter(random_crop(images, u[:, :5]), u[:, 5:10]), u[:, 10]), u[:, 11:13])
        out = (out - self.image_mean) / self.image_std
        return torch.where(disc_mask(out.shape[-1], out.device), out, 0.0)

    def moved_back(self, projected: Tensor, u: Tensor) -> Tensor:
        """What the loss compares, of projections (2B, P)."""
        return projected


class PeCLR(SimCLR):
    """PeCLR [2]: rotation, zoom, shift and colour jitter; the loss of SimCLR after the geometry is undone.

    Its projections are points in coordinates of the image, so undoing a rotation, zoom and shift is exact. (PeCLR's
    code takes a shift in units of each projection's range, and leaves the zoom to the cosine.)
    """

    def view(self, images: Tensor, u: Tensor) -> Tensor:
        out = (jitter(images, u[:, 5:10]) - self.image_mean) / self.image_std
        g, zoom, shift = motion(u[:, :5])
        return place(out, g, "disc", zoom, shift)

    def moved_back(self, projected: Tensor, u: Tensor) -> Tensor:
        points = projected.unflatten(1, (-1, 2)) * POINT_SCALE
        return undo(points, *motion(u[:, :5])).flatten(1)
