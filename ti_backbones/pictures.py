"""Picture grids of what a model draws."""

from __future__ import annotations

import io

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from . import o2
from .images import view


@torch.no_grad()
def view_grid(objective, images: Tensor, columns: int = 8, cell: int = 96) -> bytes:
    """PNG of rows x, g·x, the drawing of z(x) and, for a pooled decoder, the drawing of T_g z(x).

    Args:
        objective: a `TIObjective`, whose mode is kept.
        images: (N, 3, S, S) in [0, 1].
    """
    was_training, device = objective.training, objective.image_mean.device
    objective.eval()
    n = min(columns, len(images))
    images = images[:n].to(device)
    g = o2.element([i % 2 == 1 for i in range(n)], [o2.TAU * (i + 0.5) / n for i in range(n)])
    frame = objective.objective.frame
    normalised = (images - objective.image_mean) / objective.image_std
    x, gx = (view(e, normalised, frame=frame) for e in (o2.identity(n), g))
    z, feature_map = objective.ti.encode(x)
    rows = [("image x", x), ("g·x", gx)]
    if objective.objective.decode == "pooled":
        moved = objective.transformer(z, g.to(device))
        rows += [("drawn from z", objective.decoder(z)), ("drawn from T_g z", objective.decoder(moved))]
    else:
        rows += [("drawn from the map", objective.decoder(feature_map))]
    objective.train(was_training)
    label = 118
    sheet = Image.new("RGB", (label + n * cell, len(rows) * cell), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (name, row) in enumerate(rows):
        pen.text((6, r * cell + cell // 2 - 6), name, fill="black")
        shown = (row.float() * objective.image_std + objective.image_mean).clamp(0, 1)
        pixels = (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for c, picture in enumerate(pixels):
            tile = Image.fromarray(picture).resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(tile, (label + c * cell, r * cell))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()
