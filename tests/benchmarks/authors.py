"""The TI-Net authors' training step, as their paper and code have it, to measure against.

Fourteen views of each source image, decoded from the feature map at full resolution, and low-rank affine latent
transformers; contiguous memory. What is theirs alone in cost is kept, and nothing is slower than it need be: each T_g z
of the secondary terms is computed once, and equal operations run as one batch.

[0] Learning Transformation-Isomorphic Latent Space for Accurate Hand Pose Estimation, arXiv 2502.12535.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from paired import Settings
from torch import Tensor, nn

from ti_backbones import o2
from ti_backbones.backbone import TIBackbone, create_encoder
from ti_backbones.data.order import uniforms
from ti_backbones.images import view
from ti_backbones.isomorphism import normalisation
from ti_backbones.objective import UNIFORMS, paper_plan

CHANNELS = (256, 256, 256, 256, 3)
WEIGHT = 1e-3  # of the latent terms beside the reconstruction


class Authors(nn.Module):
    """Encoder, latent transformers and decoder, and their loss on source images."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: str):
        super().__init__()
        encoder = create_encoder(model)
        self.ti = TIBackbone(encoder, "affine")  # rank 128
        layers: list[nn.Module] = []
        for a, b in pairwise((cast(Any, encoder).num_features, *CHANNELS)):
            layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        self.decoder = nn.Sequential(*layers)
        for name, value in zip(("image_mean", "image_std"), normalisation(encoder), strict=True):
            self.register_buffer(name, value)

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        """The loss of images (B, 3, S, S) in [0, 1], their views decided by u (B, UNIFORMS)."""
        plan, clean = paper_plan(u), (images - self.image_mean) / self.image_std
        views = torch.cat([view(g, clean) for g in plan.elements])
        z_all, maps = self.ti.encode(views)
        reconstruction = F.mse_loss(self.decoder(maps).float(), views)
        return reconstruction + WEIGHT * self.latent_terms(z_all.float().split(len(images)), plan.secondary)

    def latent_terms(self, z: tuple[Tensor, ...], secondary: list[tuple[int, o2.Element, o2.Element, int]]) -> Tensor:
        """Identity, ordinary and nine secondary errors, each a mean square, summed."""
        transform, n = self.ti.latent_transformer, len(z[0])
        identity = F.mse_loss(transform(z[0], o2.identity(n, z[0].device)), z[0])
        first = [g for _, g, *_ in secondary[::3]]
        moved = transform(z[0].repeat(3, 1), o2.cat(first))
        ordinary = F.mse_loss(moved, torch.cat(z[1:4]))
        thrice = moved.unflatten(0, (3, 1, n)).expand(3, 3, n, -1).flatten(0, 2)
        composed = transform(thrice, o2.cat([k for _, _, k, _ in secondary]))
        secondary_error = F.mse_loss(composed, torch.cat([z[b] for *_, b in secondary]))
        return identity + 3 * ordinary + 9 * secondary_error


class AuthorsStep:
    """The authors' whole step at each call: views made, forward, backward, clip, AdamW.

    Args:
        model: timm's name of the encoder. images: (B, 3, S, S) uint8. bf16: autocast.
    """

    def __init__(self, settings: Settings, model: str, images: Tensor, bf16: bool):
        torch.manual_seed(0)
        self.settings, self.images, self.bf16, self.step = settings, images, bf16, 0
        self.authors = Authors(model).to(settings.device).train()
        self.optimiser = torch.optim.AdamW(self.authors.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def __call__(self) -> None:
        u = uniforms(0, self.step, len(self.images), UNIFORMS)
        with self.settings.autocast(self.bf16):
            images = self.images.to(self.settings.device, non_blocking=True).float() / 255
            loss = self.authors(images, u)
        loss.backward()
        nn.utils.clip_grad_norm_(self.authors.parameters(), 5.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
