"""Hands as pictures: skeletons in colours by finger, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

FINGERS = ("thumb", "index", "middle", "ring", "little")
COLOURS = ("#e6194b", "#f58231", "#3cb44b", "#00a5d4", "#a04bd8")
"""of each finger"""
BONES = [(0 if j == 0 else 4 * f + j, 4 * f + j + 1, f) for f in range(5) for j in range(4)]
"""(joint, joint, finger), outwards from the wrist"""
SMOOTH = 3  # pictures are drawn larger and reduced: PIL's lines have hard edges
LABEL = 14  # height of a caption


def tile(
    image: np.ndarray,
    side: int,
    joints_px: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    style: Sequence[str] = COLOURS,
) -> Image.Image:
    """An image fitted into a square, its joints drawn.

    Args:
        image: (H, W, 3) uint8.
        side: of the square, pixels.
        joints_px: (21, 2) in pixels of `image`.
        valid: (21,) which of them to draw; all if None.
        style: colour of each finger.
    """
    height, width = image.shape[:2]
    zoom = side * SMOOTH / max(height, width)
    fitted = Image.fromarray(image).resize((round(width * zoom) or 1, round(height * zoom) or 1))
    picture = Image.new("RGB", (side * SMOOTH, side * SMOOTH), "white")
    left, top = (picture.width - fitted.width) // 2, (picture.height - fitted.height) // 2
    picture.paste(fitted, (left, top))
    if joints_px is not None:
        draw_skeleton(picture, joints_px * zoom + [left, top], valid, style)
    return picture.reduce(SMOOTH)


def draw_skeleton(
    picture: Image.Image, joints: np.ndarray, valid: np.ndarray | None = None, style: Sequence[str] = COLOURS
) -> None:
    """Draw joints (21, 2), in pixels of the picture, onto it; see `tile`."""
    pen, thick = ImageDraw.Draw(picture), max(picture.width / 100, 1)
    near = np.all(np.abs(joints) < 1e6, axis=1)  # PIL draws nothing farther away, nor what is not finite
    seen = near.tolist() if valid is None else (near & valid).tolist()
    points = [tuple(p) for p in joints.tolist()]
    for a, b, finger in BONES:
        if seen[a] and seen[b]:
            pen.line([points[a], points[b]], fill=style[finger], width=round(thick * 1.2))
    for j, (x, y) in enumerate(points):
        r = thick * 1.4
        if not seen[j]:
            continue
        pen.ellipse((x - r, y - r, x + r, y + r), fill=style[(j - 1) // 4] if j else "white", outline="black")


def sheet(tiles: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Tiles of one size in rows, each with a line of text below."""
    side = tiles[0].width
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (side + 4) + 4, rows * (side + LABEL + 4) + 4), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, caption) in enumerate(zip(tiles, captions, strict=True)):
        x, y = 4 + (i % columns) * (side + 4), 4 + (i // columns) * (side + LABEL + 4)
        page.paste(picture, (x, y))
        while pen.textlength(caption) > side and len(caption) > 1:  # names differ at their end
            caption = "…" + caption.lstrip("…")[1:]
        pen.text((x, y + side), caption, fill="black")
    return page
