"""What lies behind the hand: environments, photographs, and surfaces made by rule. Linear radiance (S, S, 3)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from .light import Light, read_rgb
from .skin import noise_volume

# CC0 or public domain, each as scikit-image's own data/_fetchers.py and documentation say; file -> licence
PHOTOS = {
    "train": {
        "brick.png": "CC0 (CC0Textures, Bricks25)",
        "chelsea.png": "CC0 (Stefan van der Walt)",
        "clock_motion.png": "public domain (Stefan van der Walt)",
        "grass.png": "CC0 (CC0Textures)",
        "hubble_deep_field.jpg": "public domain (NASA)",
    },
    "test": {
        "coffee.png": "CC0 (Rachel Michetti)",
        "gravel.png": "CC0 (CC0Textures, Gravel04)",
        "rocket.jpg": "public domain (SpaceX)",
    },
}


KINDS = {
    "environment": 0.42,
    "photo": 0.05,
    "wall": 0.26,
    "planks": 0.03,
    "tiles": 0.06,
    "cloth": 0.05,
    "print": 0.03,
    "clutter": 0.1,
}
"""kind of background -> its share"""


def to_linear(code: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in 0..1."""
    return np.where(code <= 0.04045, code / 12.92, ((np.maximum(code, 0) + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def photos(split: str) -> list[np.ndarray]:
    """The photographs of a split, (H, W, 3) linear, from the installed scikit-image."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [to_linear(read_rgb(folder / name) / np.float32(255)) for name in sorted(PHOTOS[split])]


def _photo(split: str, size: int, random: np.random.Generator) -> np.ndarray:
    among = photos(split)
    photo = among[random.integers(len(among))]
    side = int(min(photo.shape[:2]) * random.uniform(0.3, 1))
    top, left = random.integers(photo.shape[0] - side + 1), random.integers(photo.shape[1] - side + 1)
    cut = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    cut = np.rot90(cut, int(random.integers(4)))
    if cut.std(-1).max() < 1e-3:  # a grey photo takes a colour
        cut = cut * random.uniform(0.5, 1.4, 3)
    return np.ascontiguousarray(cut, np.float32)


def environment_view(light: Light, size: int, random: np.random.Generator) -> np.ndarray:
    """The environment, as wide as a phone's camera sees it or somewhat narrower."""
    panorama, focal = light.environment.radiance, size * random.uniform(0.6, 1.5)
    at = (np.arange(size) + 0.5 - size / 2) / focal
    x, y = np.meshgrid(at, at)
    ray = np.stack([x, y, np.ones_like(x)], -1) @ light.turn.T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    u = (np.arctan2(ray[..., 0], -ray[..., 2]) / (2 * np.pi) + 0.5) * panorama.shape[1]
    v = np.arccos(np.clip(-ray[..., 1], -1, 1)) / np.pi * panorama.shape[0]
    seen = cv2.remap(
        panorama,
        (u - 0.5).astype(np.float32),
        (v - 0.5).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_WRAP,
    )
    return np.maximum(seen, 0) * light.tint.astype(np.float32)


def _plane(size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (S, S) in centimetres on a plane seen at a slant."""
    at = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(at, at)
    turn, slant, scale = random.uniform(0, 2 * np.pi), random.uniform(0, 0.9), random.uniform(15, 60)
    x, y = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
    away = 1 / (1 - slant * y)
    return x * away * scale, y * away * scale


def _lookup(x: np.ndarray, y: np.ndarray, layer: int) -> np.ndarray:
    """Noise (S, S), smooth over about two units of x and y."""
    sheet = noise_volume()[layer % 64]
    return cv2.remap(
        sheet, (x % 64).astype(np.float32), (y % 64).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def colour(random: np.random.Generator, number: int) -> np.ndarray:
    """(N, 3) linear colours of made things: mostly dull, some vivid."""
    value, vivid = random.uniform(0.04, 0.95, (number, 1)) ** 1.8, random.beta(1, 4, (number, 1))
    hue = (random.uniform(0, 1, (number, 1)) + np.array([0, 1, 2]) / 3) * 2 * np.pi
    return value * (1 - vivid * (0.5 + 0.5 * np.cos(hue)))


def _clouds(x: np.ndarray, y: np.ndarray, layer: int) -> np.ndarray:
    """Noise of four octaves, about -1 to 1."""
    return sum(_lookup(x * 2**k / 8 + 17 * k, y * 2**k / 8 + 5 * k, layer + 11 * k) / 1.6**k for k in range(4))  # type: ignore[return-value]


def _surface(kind: str, size: int, random: np.random.Generator) -> np.ndarray:
    """A wall, planks, tiles, cloth, paper with print, or clutter."""
    x, y = _plane(size, random)
    layer = int(random.integers(64))
    first, second, third = colour(random, 3)[:, None, None]
    second, third = (
        first ** (1 - share) * c**share for c, share in zip((second, third), random.uniform(0.1, 1, 2), strict=True)
    )
    grain = _clouds(x, y, layer)[..., None]
    if kind == "wall":
        out = first * (1 + 0.12 * grain)
    elif kind == "planks":
        wide = random.uniform(5, 14)
        plank = np.floor(x / wide)
        rings = _lookup(x * 2.2 + 31 * plank, y * 0.12 + 7 * plank, layer + 3)[..., None]
        out = np.array([0.42, 0.24, 0.12]) * random.uniform(0.3, 1.6) * (1 + 0.3 * rings + 0.1 * grain)
        out = (
            out
            * (1 + 0.16 * np.sin(plank * 2.4)[..., None])
            * np.where(np.abs(x / wide - plank - 0.5) > 0.485, 0.35, 1)[..., None]
        )
    elif kind == "tiles":
        wide = random.uniform(4, 16)
        joint = (np.abs(x / wide - np.floor(x / wide) - 0.5) > 0.475) | (
            np.abs(y / wide - np.floor(y / wide) - 0.5) > 0.475
        )
        odd = (np.floor(x / wide) + np.floor(y / wide)) % 2
        out = np.where(odd[..., None] > 0, first, second if random.random() < 0.5 else first)
        out = np.where(joint[..., None], third, out) * (1 + 0.08 * grain)
    elif kind == "cloth":
        wide = random.uniform(0.8, 6)
        a, b = (np.sin(x * 2 * np.pi / wide) > 0.2), (np.sin(y * 2 * np.pi / wide) > 0.2)
        out = np.where(a[..., None], first, second)
        if random.random() < 0.5:
            out = 0.5 * out + 0.5 * np.where(b[..., None], first, third)
        weave = _lookup(x * 9, y * 9, layer + 5)[..., None]
        out = out * (1 + 0.2 * weave + 0.25 * _clouds(x / 3, y / 3, layer + 9)[..., None])
    elif kind == "print":
        line = random.uniform(0.4, 1.0)
        ink = (np.abs(y / line - np.floor(y / line) - 0.5) < 0.22) & (
            _lookup(x * 3, np.floor(y / line) * 7, layer) > -0.15
        )
        ink &= (np.abs(x) < 22) & (_lookup(np.floor(y / line) * 1.0, 0 * y, layer + 1) > -0.5)
        out = (
            np.where(ink[..., None], 0.04, 0.75 * random.uniform(0.6, 1.0))
            * np.array([1.0, 0.98, 0.92])
            * (1 + 0.04 * grain)
        )
    else:
        out = _clutter(size, first, random) * (1 + 0.1 * grain)
    shade = 1 + random.uniform(0, 0.5) * _clouds(x / 6, y / 6, layer + 21)[..., None]
    return np.clip(out * np.clip(shade, 0.3, 2), 0.004, 2).astype(np.float32)


def _clutter(size: int, ground: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Things lying about: filled shapes, each with a soft shadow below it."""
    out = np.broadcast_to(ground, (size, size, 3)).astype(np.float32).copy()
    for _ in range(random.integers(6, 22)):
        centre, reach = random.uniform(-0.1, 1.1, 2) * size, size * random.uniform(0.04, 0.3)
        corners = int(random.choice([4, 4, 4, 3, 24]))
        angle = random.uniform(0, 2 * np.pi) + np.arange(corners) / corners * 2 * np.pi
        stretch = random.uniform(0.25, 1)
        shape = np.stack([np.cos(angle), stretch * np.sin(angle)], -1) * reach
        turn = random.uniform(0, 2 * np.pi)
        shape = shape @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + centre
        points = (shape * 16).astype(np.int32)
        dark = np.ones((size, size), np.float32)
        cv2.fillPoly(dark, [points + int(size * 0.4)], 0.55, cv2.LINE_AA, 4)
        out *= cv2.blur(dark, (max(size // 24, 1),) * 2)[..., None]
        cv2.fillPoly(out, [points], colour(random, 1)[0].tolist(), cv2.LINE_AA, 4)
    return out


def _defocus(random: np.random.Generator) -> float:
    """Blur of what lies behind the plane of focus, in pixels of a picture of 128: little to much."""
    return np.exp(random.uniform(np.log(0.4), np.log(5)))


def sample(split: str, light: Light, size: int, random: np.random.Generator) -> tuple[np.ndarray, str, bool]:
    """A background (S, S, 3), its kind, and whether it is so close behind the hand that shadows fall on it."""
    kind, blur = str(random.choice(list(KINDS), p=list(KINDS.values()))), size / 128
    if kind == "environment":
        return cv2.GaussianBlur(environment_view(light, size, random), (0, 0), blur * _defocus(random)), kind, False
    if kind == "photo":
        out, close = _photo(split, size, random), False
    else:
        out, close = _surface(kind, size, random), random.random() < 0.6
    lit = light.irradiance(np.array([[0.0, 0, -1]]))[0] + light.sun_colour * max(-light.sun[2], 0.0)
    out = out * np.maximum(lit, 0.03).astype(np.float32)
    if not close or random.random() < 0.5:
        out = cv2.GaussianBlur(out, (0, 0), blur * _defocus(random))
    return out, kind, close
