"""What the operators on latents and images cost beside the plainest code that could do their work."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from paired import Bar, Row, Settings, compare
from torch import Tensor

from ti_backbones import TIBackbone, images, o2
from ti_backbones.o2 import Element


@torch.no_grad()
def transform(settings: Settings) -> Iterator[Row]:
    """T_g z in eval against its two projections alone; and in training too, against the encoder that gave z."""
    model, latents, rank = ("test_resnet", 64, 32) if settings.quick else ("resnet50", 1024, 256)
    ti = TIBackbone(model, latent_config={"rank": rank}).to(settings.device).eval()
    ti.encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    z, g = torch.randn(latents, ti.latent_dim, device=settings.device), o2.sample(latents, device=settings.device)
    p = ti.latent_transformer.projection()  # pyright: ignore[reportCallIssue]
    name = f"{latents} latents, D = {ti.latent_dim}, rank {rank}"
    yield compare(
        "transform",
        f"TIBackbone.transform, {name}",
        "z @ P.T @ P alone",
        lambda: ti.transform(z, g.flip, g.angle),  # pyright: ignore[reportArgumentType]
        lambda: (z @ p.mT) @ p,
        settings,
        Bar(at_most=1.5),
    )
    few, size = (4, 32) if settings.quick else (64, 224)
    x = torch.rand(few, 3, size, size, device=settings.device).contiguous(memory_format=torch.channels_last)

    def encode() -> Tensor:
        with settings.autocast():
            return ti.encoder(x)

    z, g = encode().float(), g[:few]
    for mode in ("eval, P cached", "training, P computed"):
        ti.latent_transformer.train(mode.startswith("training"))
        what, against = (
            f"latent transformer, {mode}, {few} latents",
            f"{model} forward, {size} px, {settings.precision}",
        )
        yield compare("transform", what, against, lambda: ti.latent_transformer(z, g), encode, settings)


def _batch(settings: Settings) -> Tensor:
    count, size = (8, 32) if settings.quick else (256, 224)
    return torch.rand(count, 3, size, size, device=settings.device)


def _name(x: Tensor) -> str:
    return f"batch {len(x)}, {x.shape[-1]} px"


@torch.no_grad()
def warp(settings: Settings) -> Iterator[Row]:
    """Any g for each image, against the sampling alone."""
    x = _batch(settings)
    g = o2.sample(len(x))
    theta = F.pad(o2.matrix(o2.inverse(g)), (0, 1)).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    yield compare(
        "warp",
        f"images.act, another g for each, {_name(x)}",
        "F.grid_sample with a ready grid",
        lambda: images.act(g, x),
        lambda: F.grid_sample(x, grid, "bilinear", "zeros", align_corners=False),
        settings,
        Bar(at_most=1.25),
    )


def _permutation(name: str, settings: Settings, what: str, special: Element, x: Tensor) -> Row:
    general = o2.sample(len(x))
    runs = (lambda: images.act(special, x)), (lambda: images.act(general, x))
    return compare(name, f"{what}, {_name(x)}", "images.act, another g for each", *runs, settings, Bar(below=1))


@torch.no_grad()
def warp_quarter(settings: Settings) -> Iterator[Row]:
    """Quarter turns, against any turn."""
    x = _batch(settings)
    turns = Element(torch.zeros(len(x), dtype=torch.bool), torch.randint(4, (len(x),)).double() * (math.pi / 2))
    yield _permutation("warp-quarter", settings, "images.act, quarter turns of each", turns, x)


@torch.no_grad()
def warp_flip(settings: Settings) -> Iterator[Row]:
    """Flips, against any turn."""
    x = _batch(settings)
    flips = Element(torch.rand(len(x)) < 0.5, torch.zeros(len(x), dtype=torch.float64))
    yield _permutation("warp-flip", settings, "images.act, flips of half of them", flips, x)
