"""Make `assets/environments/*.webp` from the npm package `@pmndrs/assets` (CC0; the skies are Poly Haven's, CC0).

    pip install OpenEXR; npm pack @pmndrs/assets@1.7.0
    python -m hub.hands.build_environments pmndrs-assets-1.7.0.tgz

Each is a 512 x 256 panorama, stored as log2 radiance in 8 bits: 16 stops in steps of 1/16.
"""

from __future__ import annotations

import argparse
import base64
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

from .light import ENVIRONMENTS, encode


def repaired(image: np.ndarray) -> np.ndarray:
    """Radiance (H, W, 3) without negative and infinite values, its mean (without the sun) 1."""
    image = np.clip(np.nan_to_num(image.astype(np.float32), posinf=200), 0, 200)
    return np.maximum(image / np.minimum(image, 8 * np.median(image)).mean(), 2.0**-8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hub.hands.build_environments", description=__doc__)
    parser.add_argument("tarball", type=Path)
    parser.add_argument("--out", type=Path, default=ENVIRONMENTS)
    arguments = parser.parse_args()
    import OpenEXR  # pyright: ignore[reportMissingImports]

    arguments.out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(arguments.tarball) as tar, tempfile.TemporaryDirectory() as folder:
        for member in tar:
            name = member.name.removeprefix("package/hdri/")
            content = tar.extractfile(member)
            if name == member.name or not name.endswith(".exr.js") or content is None:
                continue
            exr = Path(folder) / name.removesuffix(".js")
            exr.write_bytes(base64.b64decode(content.read().decode().split("base64,")[1].split("'")[0]))
            image = repaired(OpenEXR.File(str(exr)).channels()["RGB"].pixels)
            out = arguments.out / f"{exr.stem}.webp"
            cv2.imwrite(str(out), encode(image)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 96])
            print(f"{out}: {image.shape[1]} x {image.shape[0]}, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
