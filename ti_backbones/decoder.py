"""Decoders: from features back to the image. Needed in pretraining only; thrown away afterwards."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from .errors import InputError

CHANNELS = (128, 64, 48, 16)
STRIDE = 16  # from the grid to what is drawn


def _upsample(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


class Decoder(nn.Module):
    """Four transposed convolutions from a small grid to a small image; the last one is linear.

    Half of the image's side will do: a pooled latent holds no finer detail, and the last doubling would cost more than
    the others together. Its targets are signed (normalised images), hence no activation at the end. It has no batch
    statistics: they would tie the images of a batch together, and one process to the next.

    Args:
        side: of what is drawn, pixels, a multiple of 16.
        channels: colour channels of the image.

    Raises:
        InputError: for another side.
    """

    def __init__(self, side: int, channels: int = 3):
        super().__init__()
        if side < STRIDE or side % STRIDE:
            nearest = max(round(side / STRIDE), 1) * STRIDE
            raise InputError(f"a decoder cannot draw {side} pixels, no multiple of {STRIDE}: take {nearest}")
        self.side, self.grid = side, side // STRIDE
        layers: list[nn.Module] = []
        for a, b in pairwise(CHANNELS):
            layers += [_upsample(a, b), nn.GroupNorm(8, b), nn.ReLU()]
        self.up = nn.Sequential(*layers, _upsample(CHANNELS[-1], channels))


class PooledDecoder(Decoder):
    """Draws the image from the pooled latent alone: z (B, D) -> (B, channels, side, side)."""

    def __init__(self, dim: int, side: int, channels: int = 3):
        super().__init__(side, channels)
        self.stem = nn.Linear(dim, CHANNELS[0] * self.grid**2)

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.stem(z).unflatten(1, (CHANNELS[0], self.grid, self.grid)).relu())


class MapDecoder(Decoder):
    """Draws the image from the last feature map, of any resolution: (B, C, h, w) -> (B, channels, side, side)."""

    def __init__(self, dim: int, side: int, channels: int = 3):
        super().__init__(side, channels)
        self.stem = nn.Conv2d(dim, CHANNELS[0], 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        x = self.stem(feature_map)
        if x.shape[-2:] != (self.grid, self.grid):
            x = nn.functional.interpolate(x, (self.grid, self.grid), mode="bilinear", align_corners=False)
        return self.up(x.relu())
