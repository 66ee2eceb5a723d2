"""From a rasterised scene to linear radiance: materials at every pixel, bump mapping, light."""

from __future__ import annotations

import numpy as np
from numba import njit

from .skin import ALONG, noise, surface

HAND, OTHER_HAND, OBJECT = 0, 1, 2
"""materials of faces"""
PLACE, POSITION, NORMAL, LIGHT, SUNLIT, CHANNELS = 0, 7, 10, 13, 16, 17
"""where a pixel's interpolated attributes begin: `skin.features`, mm, unit, irradiance over pi, sun's visibility"""

# parameters of what an arm wears
SLEEVE, CLOTH, CLOTH2, STRIPE = 0, slice(1, 4), slice(4, 7), 7
RING, RING_PLACE, RING_COLOUR = 8, 9, slice(10, 13)
WATCH, STRAP, WATCH_METAL = 13, slice(14, 17), 17
WEAR = 18
# parameters of a held object
PAINT, PAINT2, BANDS, OBJECT_ROUGHNESS = slice(0, 3), slice(3, 6), 6, 7
OBJECT_PARAMETERS = 8


@njit(cache=True, fastmath=True)
def _cloth(place, w, volume, albedo):
    x, y, z = place[0], place[1], place[2]
    weave = noise(volume, x / 1.6, y / 1.6, z / 1.6)
    folds = noise(volume, x / 25 + w[1] * 50, y / 12, z / 25)
    second = w[STRIPE] > 0 and (y / w[STRIPE] - np.floor(y / w[STRIPE])) > 0.5
    for c in range(3):
        albedo[c] = (w[4 + c] if second else w[1 + c]) * (1 + 0.18 * weave)
    return 0.25 * weave + 1.6 * folds, 0.95


@njit(cache=True, fastmath=True)
def _object(place, o, volume, albedo):
    x, y, z = place[0], place[1], place[2]
    grain = noise(volume, x / 2.5, y / 2.5, z / 2.5)
    blotch = noise(volume, x / 14, y / 14, z / 14)
    second = o[BANDS] > 0 and abs(y / o[BANDS] - np.floor(y / o[BANDS] + 0.5)) < 0.22
    for c in range(3):
        albedo[c] = (o[3 + c] if second else o[c]) * (1 + 0.08 * grain + 0.12 * blotch)
    return 0.03 * grain, o[OBJECT_ROUGHNESS]


@njit(cache=True, fastmath=True)
def materials(
    face_of, pixels, material, fingers, flexion, skin, wear, thing, volume, lines, albedo, height, rough, kind
):
    """Albedo (H, W, 3), height (H, W) in mm, roughness, and kind (0 the hand's skin, else 1) of all pixels."""
    colour = np.empty(3, np.float32)
    for row in range(face_of.shape[0]):
        for column in range(face_of.shape[1]):
            f = face_of[row, column]
            if f < 0:
                continue
            place, m = pixels[row, column], material[f]
            kind[row, column] = m != HAND
            if m == OBJECT:
                h, r = _object(place, thing, volume, colour)
            else:
                w, finger = wear[m], fingers[f]
                if place[1] < w[SLEEVE]:
                    h, r = _cloth(place, w, volume, colour)
                    kind[row, column] = 1
                else:
                    h, r = surface(place, finger, flexion[m], skin[m], volume, lines, colour)
                    ring = abs(place[ALONG] - w[RING_PLACE]) / 0.07
                    band = abs(place[1] - w[WATCH]) / 9.0
                    if finger >= 0 and finger == int(w[RING]) and ring < 1:
                        h, r = h + 1.1 * np.sqrt(1 - ring * ring), 0.22
                        for c in range(3):
                            colour[c] = w[10 + c]
                    elif finger < 0 and band < 1:
                        h, r = 1.5 * min(1.0, 6 * (1 - band)), 0.3 if w[WATCH_METAL] > 0 else 0.6
                        gap = 1 - 0.35 * w[WATCH_METAL] * (abs(place[1] / 3 - np.floor(place[1] / 3 + 0.5)) < 0.08)
                        for c in range(3):
                            colour[c] = w[14 + c] * gap
            height[row, column], rough[row, column] = h, r
            for c in range(3):
                albedo[row, column, c] = min(max(colour[c], 0.004), 0.92)


@njit(cache=True, fastmath=True)
def _reflected(map_, turn, x, y, z, out):
    """Bilinear look-up (3,) of a panorama along (x, y, z) of the camera's frame."""
    a = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    b = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    c = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    rows, columns = map_.shape[0], map_.shape[1]
    u = (np.arctan2(a, -c) / (2 * np.pi) + 0.5) * columns - 0.5
    v = np.arccos(min(max(-b, -0.9999), 0.9999)) / np.pi * rows - 0.5
    i, j = int(np.floor(v)), int(np.floor(u))
    fv, fu = v - i, u - j
    i0, i1, j0, j1 = min(max(i, 0), rows - 1), min(max(i + 1, 0), rows - 1), j % columns, (j + 1) % columns
    for k in range(3):
        upper = map_[i0, j0, k] * (1 - fu) + map_[i0, j1, k] * fu
        out[k] = upper * (1 - fv) + (map_[i1, j0, k] * (1 - fu) + map_[i1, j1, k] * fu) * fv


@njit(cache=True, fastmath=True)
def shade(face_of, pixels, albedo, height, rough, map_, turn, sun, sun_colour, sun_share, shine, out):
    """Radiance (H, W, 3) of every drawn pixel.

    Args:
        sun: (3,) unit direction of most of the light. sun_share: how much of the diffuse light bumps may turn.
        shine: strength of reflections.

    Bump mapping without texture coordinates: Mikkelsen 2010, "Bump mapping unparametrized surfaces on the GPU".
    """
    rows, columns = face_of.shape
    mirror = np.empty(3, np.float32)
    for row in range(rows):
        for column in range(columns):
            if face_of[row, column] < 0:
                continue
            q = pixels[row, column]
            px, py, pz = q[7], q[8], q[9]
            nx, ny, nz = q[10], q[11], q[12]
            length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * length, ny * length, nz * length
            length = 1 / np.sqrt(px * px + py * py + pz * pz)
            vx, vy, vz = -px * length, -py * length, -pz * length
            if nx * vx + ny * vy + nz * vz < 0:
                nx, ny, nz = -nx, -ny, -nz
            sx, sy, sz = nx, ny, nz
            right, below = min(column + 1, columns - 1), min(row + 1, rows - 1)
            if face_of[row, right] >= 0 and face_of[below, column] >= 0:
                a, b = pixels[row, right], pixels[below, column]
                if abs(a[9] - pz) < 4 and abs(b[9] - pz) < 4 and right > column and below > row:
                    ax, ay, az = a[7] - px, a[8] - py, a[9] - pz
                    bx, by, bz = b[7] - px, b[8] - py, b[9] - pz
                    r1x, r1y, r1z = by * nz - bz * ny, bz * nx - bx * nz, bx * ny - by * nx
                    r2x, r2y, r2z = ny * az - nz * ay, nz * ax - nx * az, nx * ay - ny * ax
                    det = ax * r1x + ay * r1y + az * r1z
                    sign = 1.0 if det > 0 else -1.0
                    da = min(max(height[row, right] - height[row, column], -0.8), 0.8) * sign
                    db = min(max(height[below, column] - height[row, column], -0.8), 0.8) * sign
                    size = abs(det) + 1e-6
                    sx = nx * size - (da * r1x + db * r2x)
                    sy = ny * size - (da * r1y + db * r2y)
                    sz = nz * size - (da * r1z + db * r2z)
                    length = 1 / np.sqrt(sx * sx + sy * sy + sz * sz + 1e-12)
                    sx, sy, sz = sx * length, sy * length, sz * length
            facing = min(max(sx * vx + sy * vy + sz * vz, 0.03), 1.0)
            tilt = (sx - nx) * sun[0] + (sy - ny) * sun[1] + (sz - nz) * sun[2]
            turned = min(max(1 + sun_share * tilt, 0.35), 1.8)
            rx, ry, rz = 2 * facing * sx - vx, 2 * facing * sy - vy, 2 * facing * sz - vz
            _reflected(map_, turn, rx, ry, rz, mirror)
            r = rough[row, column]
            fresnel = 0.028 + 0.972 * (1 - facing) ** 5 * (1 - r) ** 2
            hx, hy, hz = sun[0] + vx, sun[1] + vy, sun[2] + vz
            length = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
            half = max((sx * hx + sy * hy + sz * hz) * length, 0.0)
            lit = max(sx * sun[0] + sy * sun[1] + sz * sun[2], 0.0)
            a2 = r**4
            lobe = a2 / (np.pi * ((half * half * (a2 - 1) + 1) ** 2))
            spot = lobe * 0.028 * 0.25 * lit * q[16] / (max(facing, 0.1) * max(lit, 0.1))
            for c in range(3):
                diffuse = q[13 + c] * turned
                reflected = mirror[c] * fresnel * min(q[13 + c], 1.0) + spot * sun_colour[c]
                out[row, column, c] = albedo[row, column, c] * diffuse + shine * reflected
