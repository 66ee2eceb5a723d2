"""The camera: exposure, the response curve, blur, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np


def to_code(linear: np.ndarray) -> np.ndarray:
    """sRGB values in 0..1 of linear light."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _shadowed(behind: np.ndarray, alpha: np.ndarray, sun: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A soft shadow of the hand on a surface close behind it, away from the sun."""
    size = len(alpha)
    gap = size * random.uniform(0.03, 0.2)
    slope = -sun[:2] / max(-sun[2], 0.35)
    shift = np.array([[1, 0, slope[0] * gap], [0, 1, slope[1] * gap]])
    cast = cv2.warpAffine(alpha, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(cast, (0, 0), gap * random.uniform(0.25, 0.6) + 0.5)
    return behind * (1 - random.uniform(0.25, 0.65) * soft[..., None])


def photograph(
    radiance: np.ndarray,
    alpha: np.ndarray,
    behind: np.ndarray,
    sun: np.ndarray | None,
    size: int,
    random: np.random.Generator,
) -> np.ndarray:
    """(S, S, 3) uint8 as a camera would take it, before compression.

    Args:
        radiance: (S, S, 3) of what is drawn, times coverage. alpha: (S, S) coverage. behind: (S, S, 3).
        sun: (3,) direction of the light whose shadow falls on what is behind, or None.
    """
    if sun is not None:
        behind = _shadowed(behind, alpha, sun, random)
    solid = alpha > 0.5
    hand = np.percentile(radiance[solid].mean(-1), 70) if solid.any() else 0.2
    ground = max(float(np.median(behind.mean(-1))), 0.01)
    # the meter looks at both, the photographer wants the hand seen
    exposure = np.exp(random.normal(0, 0.28)) * 0.285 / max(hand, 0.015) ** 0.9 / ground**0.12
    wanted = 0.24 * np.exp(random.normal(0, 0.6)) / (exposure * ground)
    behind = behind * np.clip(wanted ** random.uniform(0.3, 0.9), 0.05, 20)
    light = (radiance + behind * (1 - alpha[..., None])) * exposure
    contrast = random.uniform(0.1, 0.35)
    image = to_code(light * (1 + contrast) / (1 + contrast * light)).astype(np.float32)
    scale = size / 128
    softness = np.exp(random.uniform(np.log(0.3), np.log(1.0)))  # lens, mosaic and enlargement of a small crop
    image = cv2.GaussianBlur(image, (0, 0), scale * softness)
    if random.random() < 0.12:
        image = _moved(image, scale * random.uniform(1, 4), random.uniform(0, 180))
    read, shot = random.uniform(0.002, 0.014), random.uniform(0.0, 0.012)
    image = image + random.normal(0, 1, image.shape) * (read + shot * np.sqrt(np.maximum(image, 0)))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def compressed(image: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, bytes]:
    """An image (S, S, 3) uint8 as its JPEG shows it, and that file, of random quality."""
    _, packed = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(60, 97))])
    seen = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert seen is not None  # it was encoded a line ago
    return np.ascontiguousarray(seen[..., ::-1]), packed.tobytes()


def _moved(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Motion blur over `length` pixels at `angle` degrees."""
    side = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((side, side), np.float32)
    reach = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * length / 2
    for t in np.linspace(-1, 1, 8 * side):
        x, y = side / 2 + reach * t
        kernel[int(y), int(x)] += 1
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
