"""Numba kernels: rasterisation with perspective-correct barycentrics, and visibility through depth maps."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, fastmath=True)
def _span(a, b, c, size):
    """First and last pixel, of `size`, whose centre may lie between three coordinates."""
    return max(0, int(np.floor(min(a, b, c) - 0.5))), min(size - 1, int(np.ceil(max(a, b, c) - 0.5)))


@njit(cache=True, fastmath=True)
def rasterize(pixel, depth, faces, inverse_depth, face_of, weights):
    """Draw faces into buffers.

    Args:
        pixel: (V, 2) positions, the first pixel spanning 0 to 1. depth: (V,) positive. faces: (F, 3).
        inverse_depth: (H, W) zeros. face_of: (H, W) of -1. weights: (H, W, 3). All three are written.
    """
    height, width = face_of.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth[a] < 1 or depth[b] < 1 or depth[c] < 1:
            continue
        x0, y0, x1, y1, x2, y2 = pixel[a, 0], pixel[a, 1], pixel[b, 0], pixel[b, 1], pixel[c, 0], pixel[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        left, right = _span(x0, x1, x2, width)
        top, bottom = _span(y0, y1, y2, height)
        scale, i0, i1, i2 = 1 / area, 1 / depth[a], 1 / depth[b], 1 / depth[c]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * scale
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * scale
                w2 = 1 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                nearness = w0 * i0 + w1 * i1 + w2 * i2
                if nearness > inverse_depth[y, x]:
                    inverse_depth[y, x], face_of[y, x] = nearness, f
                    weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = (
                        w0 * i0 / nearness,
                        w1 * i1 / nearness,
                        w2 * i2 / nearness,
                    )


@njit(cache=True, fastmath=True)
def _depth_map(place, towards, faces, out):
    """Orthographic depth: the largest `towards` (V,) of the faces drawn at `place` (V, 2) into `out` (S, S)."""
    size = out.shape[0]
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, x1, y1, x2, y2 = place[a, 0], place[a, 1], place[b, 0], place[b, 1], place[c, 0], place[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        left, right = _span(x0, x1, x2, size)
        top, bottom = _span(y0, y1, y2, size)
        scale = 1 / area
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * scale
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * scale
                if w0 >= 0 and w1 >= 0 and w0 + w1 <= 1:
                    d = w0 * towards[a] + w1 * towards[b] + (1 - w0 - w1) * towards[c]
                    out[y, x] = max(out[y, x], d)


@njit(cache=True, fastmath=True)
def visibility(vertices, normal, faces, towards, size, bias, out):
    """How much of each direction's light reaches every vertex: `out` (V, D), 0 to 1.

    Args:
        vertices, normal: (V, 3). faces: (F, 3). towards: (D, 3) unit directions to the light.
        size: side of the depth maps. bias: mm by which a surface may lie before itself.
    """
    count = vertices.shape[0]
    place, depth = np.empty((count, 2), np.float32), np.empty(count, np.float32)
    for d in range(towards.shape[0]):
        l0, l1, l2 = towards[d, 0], towards[d, 1], towards[d, 2]
        if abs(l0) < 0.9:
            u0, u1, u2 = np.float32(0), l2, -l1
        else:
            u0, u1, u2 = -l2, np.float32(0), l0
        length = np.sqrt(u0 * u0 + u1 * u1 + u2 * u2)
        u0, u1, u2 = u0 / length, u1 / length, u2 / length
        v0, v1, v2 = l1 * u2 - l2 * u1, l2 * u0 - l0 * u2, l0 * u1 - l1 * u0
        for i in range(count):
            x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
            place[i, 0], place[i, 1] = x * u0 + y * u1 + z * u2, x * v0 + y * v1 + z * v2
            depth[i] = x * l0 + y * l1 + z * l2
        low0, low1 = place[:, 0].min(), place[:, 1].min()
        scale = (size - 4) / max(place[:, 0].max() - low0, place[:, 1].max() - low1)
        for i in range(count):
            place[i, 0], place[i, 1] = (place[i, 0] - low0) * scale + 2, (place[i, 1] - low1) * scale + 2
        nearest = np.full((size, size), np.float32(-1e9), np.float32)
        _depth_map(place, depth, faces, nearest)
        for i in range(count):
            if normal[i, 0] * l0 + normal[i, 1] * l1 + normal[i, 2] * l2 <= -0.2:
                out[i, d] = 0
                continue
            x, y = int(place[i, 0]), int(place[i, 1])
            lit, seen = 0, 0
            for yy in range(max(0, y - 1), min(size, y + 2)):
                for xx in range(max(0, x - 1), min(size, x + 2)):
                    seen += 1
                    if nearest[yy, xx] < depth[i] + bias:
                        lit += 1
            out[i, d] = lit / seen


@njit(cache=True)
def interpolate(face_of, weights, faces, attributes, out):
    """(H, W, C) `out` from vertex attributes (V, C) through the rasterised faces."""
    for y in range(face_of.shape[0]):
        for x in range(face_of.shape[1]):
            f = face_of[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            w0, w1, w2 = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            for k in range(attributes.shape[1]):
                out[y, x, k] = w0 * attributes[a, k] + w1 * attributes[b, k] + w2 * attributes[c, k]
