"""Light: environment maps, their diffuse light as spherical harmonics, and a sun.

World frame: x right, y down, z forward, as the camera's. Panoramas look along -z at their centre, up at their top.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ti_backbones.errors import InputError

ENVIRONMENTS = Path(__file__).parent / "assets" / "environments"
HELD_OUT = ("lobby", "park", "studio", "venice")
"""environments of the test split"""
_STOPS, _LOWEST = 16, -8


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of an image file that comes with the renderer or one of its packages.

    Raises:
        InputError: if it is missing.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise InputError(
            f"image '{path}' of the renderer is missing: install it again, or use a clone of the repository"
        )
    return image[..., ::-1]


def encode(radiance: np.ndarray) -> np.ndarray:
    """8-bit logarithm of radiance: 16 stops from 2^-8."""
    return np.clip((np.log2(radiance) - _LOWEST) / _STOPS * 255 + 0.5, 0, 255).astype(np.uint8)


def decode(code: np.ndarray) -> np.ndarray:
    """Radiance from its 8-bit logarithm."""
    return np.exp2(code.astype(np.float32) / 255 * _STOPS + _LOWEST)


def harmonics(direction: np.ndarray) -> np.ndarray:
    """(..., 9) real spherical harmonics up to degree 2 of unit directions (..., 3)."""
    x, y, z = np.moveaxis(direction, -1, 0)
    first = (0.282095 + 0 * x, 0.488603 * y, 0.488603 * z, 0.488603 * x)
    second = (1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z)
    return np.stack([*first, *second, 0.546274 * (x * x - y * y)], -1)


COSINE = np.array([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5]) / np.pi
"""clamped cosine lobe by degree, over pi (Ramamoorthi and Hanrahan 2001)"""


@dataclass(frozen=True)
class Environment:
    """A panorama as light.

    Attributes:
        name: its file's stem. radiance: (256, 512, 3) float32 without the sun's peak. blurred: (32, 64, 3), for
        reflections. diffuse: (9, 3) harmonic coefficients. sun: (3,) unit direction of the brightest place.
        colour: (3,) of the sun, mean 1.
    """

    name: str
    radiance: np.ndarray
    blurred: np.ndarray
    diffuse: np.ndarray
    sun: np.ndarray
    colour: np.ndarray


def directions(height: int, width: int) -> np.ndarray:
    """(H, W, 3) directions of a panorama's pixels."""
    down = (np.arange(height) + 0.5) / height * np.pi
    around = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    theta, phi = np.meshgrid(down, around, indexing="ij")
    return np.stack([np.sin(theta) * np.sin(phi), -np.cos(theta), -np.sin(theta) * np.cos(phi)], -1)


def _environment(path: Path) -> Environment:
    image = decode(read_rgb(path))
    height, width = image.shape[:2]
    toward = directions(height, width)
    solid = np.sqrt(1 - toward[..., 1:2] ** 2) * (np.pi / height) * (2 * np.pi / width)
    soft = np.minimum(image, 8)
    brightness = cv2.blur((image * solid).mean(-1), (9, 9))
    brightest = np.unravel_index(brightness.argmax(), brightness.shape)
    colour = np.maximum(image[brightest], 0.3) ** 0.6  # as the eye, or a camera's white balance, sees it
    blurred = cv2.resize(cv2.GaussianBlur(soft, (0, 0), 6), (64, 32), interpolation=cv2.INTER_AREA)
    diffuse = np.einsum("hwk,hwc->kc", harmonics(toward), soft * solid)
    return Environment(path.stem, soft, blurred, diffuse, toward[brightest], colour / colour.mean())


@cache
def environments(split: str) -> list[Environment]:
    """The environments of a split, 'train' or 'test', sorted by name."""
    found = sorted(ENVIRONMENTS.glob("*.webp"))
    return [_environment(p) for p in found if (p.stem in HELD_OUT) == (split == "test")]


@dataclass(frozen=True)
class Light:
    """How a scene is lit.

    Attributes:
        environment, turn: the panorama, and (3, 3) from camera to world. tint: (3,) colour and strength.
        sun: (3,) unit direction towards it in the camera's frame. sun_colour: (3,).
        ambient: share of the environment's light.
    """

    environment: Environment
    turn: np.ndarray
    tint: np.ndarray
    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: float

    def irradiance(self, normal: np.ndarray) -> np.ndarray:
        """(N, 3) diffuse light of the environment, over pi, on unit normals (N, 3) in the camera's frame."""
        light = (harmonics(normal @ self.turn.T) * COSINE) @ self.environment.diffuse
        return np.maximum(light * self.tint, 0.02) * self.ambient


def sample(split: str, random: np.random.Generator) -> Light:
    """A random light: an environment seen from a random side, white-balanced in part, with a sun or a lamp."""
    among = environments(split)
    environment = among[random.integers(len(among))]
    yaw, pitch, roll = random.uniform(0, 2 * np.pi), random.uniform(-0.7, 0.5), random.normal(0, 0.15)
    turn = cv2.Rodrigues(np.array([0, yaw, 0.0]))[0] @ cv2.Rodrigues(np.array([pitch, 0.0, 0]))[0]
    turn = turn @ cv2.Rodrigues(np.array([0, 0, roll]))[0]
    cast = environment.diffuse[0] / environment.diffuse[0].mean()
    tint = (1 + random.normal(0, 0.05, 3)) * np.exp(random.normal(0, 0.2)) * cast ** -random.uniform(0.5, 1)
    if random.random() < 0.6:
        sun, colour = environment.sun @ turn, environment.colour * tint * random.uniform(0.2, 1.5)
    else:  # a lamp near the viewer
        sun = random.normal(size=3) - np.array([0, 0.4, 1.2])
        sun, colour = sun / np.linalg.norm(sun), (1 + random.normal(0, 0.08, 3)) * random.uniform(0.2, 1.4)
    return Light(environment, turn, tint, sun, np.maximum(colour, 0.02), random.uniform(0.55, 1.0))
