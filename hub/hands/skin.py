"""Skin: where on the hand its features lie, one person's colours, and both at every pixel.

Features are functions of the place on the mean hand at rest, so no texture is needed and none can be stretched:
creases, nails, veins, freckles and pores stay sharp at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit

from .model import BONES, FINGER, METACARPAL, hand_model, normals

# One row a fine vertex: what the pixel functions below interpolate.
REST, PALM, NAIL, ALONG, KNUCKLE = slice(0, 3), 3, 4, 5, 6
FEATURES = 7


@cache
def features() -> np.ndarray:
    """(V', 7) float32: place at rest (mm), palm side 0..1, nail 0..1, place along the finger, knuckle 0..1.

    Along the finger: -1 at the wrist, 0 at the knuckle, 1 and 2 at the next joints, 3 at the tip.
    """
    hand = hand_model()
    vertices, heads = hand.shape(np.zeros(hand.components))
    tips, rest = hand.tips(vertices), hand.rest
    weights = hand.smooth @ hand.weights
    outward = normals(rest, hand.faces)
    along, palmar = np.zeros(len(rest)), np.tile([0.0, 0, 1], (len(rest), 1))
    wrist = heads[BONES.index("wrist")]
    for finger in range(5):
        points = [*heads[FINGER + 3 * finger : FINGER + 3 * finger + 3], tips[finger]]
        for j in range(3):
            bone = points[j + 1] - points[j]
            share = weights[:, FINGER + 3 * finger + j]
            along += share * (j + np.clip((rest - points[j]) @ bone / (bone @ bone), -0.3, 1.3))
            palmar += share[:, None] * (hand.axes[finger, j, 1] - palmar)
    for i in range(METACARPAL, FINGER):
        bone = heads[FINGER + 3 * (i - METACARPAL + 1)] - wrist
        along += weights[:, i] * np.clip((rest - wrist) @ bone / (bone @ bone) - 1, -1, 0.2)
    along -= weights[:, :METACARPAL].sum(1)
    palmar /= np.linalg.norm(palmar, axis=1, keepdims=True)
    palm = 1 / (1 + np.exp(-5 * ((outward * palmar).sum(1) + 0.12)))
    palm *= 0.2 + 0.8 / (1 + np.exp(-(rest[:, 1] + 2) / 3))  # the forearm's inside is hardly palm
    knuckles = heads[[FINGER + 3 * k for k in range(1, 5)]] + np.array([0, 2, -10])
    gap = np.linalg.norm(rest[:, None] - knuckles, axis=2).min(1)
    knuckle = np.exp(-((gap / 9) ** 2)) * (1 - palm)
    return np.column_stack([rest, palm, hand.nails, along, knuckle]).astype(np.float32)


@cache
def face_fingers() -> np.ndarray:
    """(F',) int8: whose skin a face is: finger 0 (thumb) to 4, or -1 for palm, wrist and forearm."""
    hand = hand_model()
    owner = (hand.smooth @ hand.weights)[hand.faces].sum(1).argmax(1)
    return np.where(owner < FINGER, -1, (owner - FINGER) // 3).astype(np.int8)


PALM_LINES = np.array(
    [  # in the palm's plane at rest, mm: heart, head and life line, each of four segments
        [[-37, 82], [-20, 88], [-2, 92], [14, 98], [22, 106]],
        [[-32, 60], [-14, 70], [6, 78], [24, 84], [38, 88]],
        [[4, 22], [8, 44], [16, 62], [26, 76], [38, 88]],
    ],
    np.float32,
)

TONES = np.array(
    [  # linear albedo of the back of the hand, from the lightest to the darkest skin
        (0.78, 0.52, 0.41),
        (0.66, 0.40, 0.29),
        (0.55, 0.31, 0.205),
        (0.42, 0.215, 0.132),
        (0.29, 0.138, 0.082),
        (0.185, 0.088, 0.055),
        (0.115, 0.057, 0.040),
        (0.070, 0.038, 0.030),
    ]
)


def tone(darkness: float) -> np.ndarray:
    """(3,) linear albedo of skin from 0 (lightest) to 1 (darkest)."""
    at = np.linspace(0, 1, len(TONES))
    return np.exp([np.interp(darkness, at, np.log(TONES[:, c])) for c in range(3)])


@dataclass(frozen=True)
class Skin:
    """One person's skin: a darkness from 0 to 1, and the parameters (25,) that `surface` reads."""

    darkness: float
    parameters: np.ndarray


# parameters of `surface`
BACK, INSIDE, PLATE, POLISH = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)
POLISHED, BLOOD, CREASE, MOTTLE, FRECKLES, VEINS, PORES, GLOSS, TENDONS, LINES = range(12, 22)
OFFSET = slice(22, 25)
PARAMETERS = 25


def sample(random: np.random.Generator) -> Skin:
    """A random person's skin."""
    darkness = random.uniform(0, 1)
    back = tone(darkness) * np.exp(random.normal(0, 0.03, 3))
    # palms hold little melanin: they stay light on dark skin, and redder than the back on any
    inside = tone(0.12 + 0.55 * darkness * random.uniform(0.6, 1)) * np.array([1.0, 0.9, 0.88])
    p = np.zeros(PARAMETERS, np.float32)
    p[BACK], p[INSIDE] = back, inside
    p[PLATE] = (0.45 * inside + 0.55 * back) ** 0.9 * np.array([1.12, 1.0, 1.0])
    age = random.beta(1.3, 2.0)
    p[BLOOD] = random.uniform(0.3, 1.2)
    p[CREASE] = 0.45 + 0.8 * age + random.normal(0, 0.1)
    p[MOTTLE] = random.uniform(0.4, 1.3)
    p[FRECKLES] = max(0, random.normal(0.1, 0.5)) * (1 - darkness)
    p[VEINS] = min(max(0, random.normal(0.2, 0.5)) * (0.4 + age), 1)
    p[PORES] = random.uniform(0.5, 1.3)
    p[GLOSS] = random.uniform(0.52, 0.72)
    p[TENDONS] = min(max(0, random.normal(0.4, 0.4)), 1)
    p[LINES] = random.uniform(0.6, 1.3)
    p[OFFSET] = random.uniform(0, 64, 3)
    return Skin(darkness, p)


def polished(skin: Skin, random: np.random.Generator) -> np.ndarray:
    """The parameters, in one image of seven with nail polish."""
    p = skin.parameters.copy()
    if random.random() < 0.15:
        p[POLISHED] = 1
        p[POLISH] = random.uniform(0.02, 0.8, 3) ** 1.5
    return p


@cache
def noise_volume(size: int = 64, seed: int = 7) -> np.ndarray:
    """(S, S, S) float32 periodic noise with values about -1 to 1, smooth over two cells."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfftn(random.normal(size=(size,) * 3))
    f = np.fft.fftfreq(size)
    r = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + np.fft.rfftfreq(size)[None, None] ** 2)
    out = np.fft.irfftn(spectrum * np.exp(-((r / 0.22) ** 2)), s=(size,) * 3, axes=(0, 1, 2))
    return (out / out.std() * 0.5).astype(np.float32)


@njit(cache=True, fastmath=True)
def noise(volume, x, y, z):
    """Trilinear, periodic."""
    size = volume.shape[0]
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    fx, fy, fz = x - i, y - j, z - k
    i, j, k = i % size, j % size, k % size
    i1, j1, k1 = (i + 1) % size, (j + 1) % size, (k + 1) % size
    a = volume[i, j, k] * (1 - fz) + volume[i, j, k1] * fz
    b = volume[i, j1, k] * (1 - fz) + volume[i, j1, k1] * fz
    c = volume[i1, j, k] * (1 - fz) + volume[i1, j, k1] * fz
    d = volume[i1, j1, k] * (1 - fz) + volume[i1, j1, k1] * fz
    return (a * (1 - fy) + b * fy) * (1 - fx) + (c * (1 - fy) + d * fy) * fx


@njit(cache=True, fastmath=True)
def _line(x, y, lines, which):
    """Distance in mm from a palm line, and the share of its length at the nearest place."""
    nearest, where = 1e9, 0.0
    for s in range(4):
        ax, ay = lines[which, s, 0], lines[which, s, 1]
        bx, by = lines[which, s + 1, 0] - ax, lines[which, s + 1, 1] - ay
        t = min(max(((x - ax) * bx + (y - ay) * by) / (bx * bx + by * by), 0.0), 1.0)
        d = (x - ax - t * bx) ** 2 + (y - ay - t * by) ** 2
        if d < nearest:
            nearest, where = d, (s + t) / 4
    return np.sqrt(nearest), where


@njit(cache=True, fastmath=True)
def _bump(x, width):
    q = x / width
    return np.exp(-q * q) if abs(q) < 3 else 0.0


@njit(cache=True, fastmath=True)
def surface(place, finger, flexion, p, volume, lines, albedo):
    """Skin at one place: fills `albedo` (3,) and returns height in mm and roughness.

    Args:
        place: (7,) features. finger: 0 to 4, or -1. flexion: (5, 3) radians of this pose.
        p: (25,) parameters of `Skin`. volume: (S, S, S) noise. lines: `PALM_LINES`.
    """
    x, y, z, palm, nail, along = place[0], place[1], place[2], place[PALM], place[NAIL], place[ALONG]
    ox, oy, oz = p[22], p[23], p[24]
    wide = noise(volume, x / 11 + ox, y / 11 + oy, z / 11 + oz)
    middle = noise(volume, x / 3.5 + oy, y / 3.5 + oz, z / 3.5 + ox)
    fine = noise(volume, x / 1.1 + oz, y / 1.1 + ox, z / 1.1 + oy)
    back = 1 - palm
    blood = p[BLOOD] * (0.10 * wide + 0.06 * middle + 0.16 * place[KNUCKLE])
    melanin = p[MOTTLE] * (0.05 * wide + 0.04 * middle)
    height, crease, vessel = 0.05 * p[PORES] * fine + 0.05 * middle * p[PORES], 0.0, 0.0
    if finger >= 0:
        for k in range(1, 3):
            bend = flexion[finger, k]
            straight = max(0.0, 1 - bend / 1.2)
            span = 22.0 if k == 1 else 20.0
            mm = (along - k) * span + 0.7 * middle
            wrinkles = (
                _bump(mm, 0.55) + 0.7 * _bump(mm - 2.4, 0.5) + 0.7 * _bump(mm + 2.3, 0.5) + 0.4 * _bump(mm - 4.4, 0.5)
            )
            folds = _bump(mm - 0.6, 0.6) + (0.8 * _bump(mm + 1.5, 0.5) if k == 1 else 0.2 * _bump(mm + 1.8, 0.5))
            crease += back * back * straight * 0.75 * wrinkles + palm * palm * (0.8 + 0.5 * bend) * folds
            joint = _bump(mm, 6.0)
            blood += p[BLOOD] * 0.16 * back * joint
            melanin += 0.22 * back * joint * (0.6 + middle)
        base = (along - 0.48) * 40 + 0.6 * middle
        if finger > 0:
            crease += palm * palm * (_bump(base, 0.7) + 0.5 * _bump(base + 2.0, 0.6))
        blood += p[BLOOD] * 0.2 * palm * _bump(along - 2.75, 0.35)  # finger tips
    elif palm > 0.35:
        wx, wy = x + 1.6 * wide, y + 1.6 * middle
        for k in range(3):
            d, where = _line(wx, wy, lines, k)
            if d < 3:
                depth = 1.15 if k < 2 else 1.3
                crease += palm * depth * p[LINES] * _bump(d, 0.75) * min(1.0, 3.5 * (1 - where) + 0.25)
        small = noise(volume, x / 6 + oz, y / 14 + oy, z / 9 + ox)
        crease += 0.35 * palm * p[LINES] * _bump(small, 0.06)
        for k in range(2):
            crease += 0.7 * palm * _bump(y - 3.0 + 4.5 * k + 0.8 * middle, 0.6)
        blood += p[BLOOD] * palm * (0.10 * wide + 0.08)
        height += 0.12 * middle * palm
    if finger < 0 and back > 0.3 and p[VEINS] > 0:
        # veins: where a noise stretched along the arm crosses zero
        vein = noise(volume, x / 16 + oy + 0.2 * wide, y / 46 + oz, z / 24 + ox)
        ridge = _bump(vein, 0.09) * back * back
        height += 0.55 * p[VEINS] * ridge
        vessel = 0.22 * p[VEINS] * ridge
        if y > 5:
            tendon = _bump((x + 4 - 0.02 * y) / 19.0 - np.floor((x + 4 - 0.02 * y) / 19.0 + 0.5), 0.13)
            height += 0.35 * p[TENDONS] * tendon * back
    spots = noise(volume, x / 1.9 + ox, y / 1.9 + oz, z / 1.9 + oy)
    freckle = min(max((spots - 1.05 + 0.35 * wide) * 3, 0.0), 1.0) * back
    melanin += p[FRECKLES] * 0.55 * freckle
    crease = min(crease * p[CREASE], 1.6)
    height -= 0.45 * crease
    roughness = p[GLOSS] + 0.06 * palm + 0.04 * middle
    shadow = 1 - 0.24 * min(crease, 1.2)
    absorb = (0.25, 0.55, 0.62)
    redden = (0.02, 0.62, 0.50)
    bluish = (1.0, 0.5, 0.35)  # blood below the skin takes the red
    for c in range(3):
        tone_here = np.exp(back * np.log(p[c]) + palm * np.log(p[3 + c]))
        albedo[c] = (
            tone_here
            * np.exp(-blood * redden[c] - melanin * absorb[c] * 1.6 - vessel * bluish[c])
            * shadow ** (0.75 + 0.25 * c)
        )
    if nail > 0.42 and finger >= 0:
        edge = min((nail - 0.42) / 0.16, 1.0)
        free = min(max((along - 2.93) * 14, 0.0), 1.0)
        for c in range(3):
            plate = p[6 + c] * (1 - 0.05 * wide) * (1 - free) + free * (0.62, 0.56, 0.47)[c] * (0.4 + 0.6 * p[3])
            if p[POLISHED] > 0:
                plate = p[9 + c]
            albedo[c] = albedo[c] * 0.8 * (1 - edge) + plate * edge
        height += 0.25 * edge
        roughness = roughness * (1 - edge) + 0.24 * edge
    return height, roughness
