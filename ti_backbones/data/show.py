"""`ti-backbones data show`: a contact sheet of any set."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..checkpoint import write_atomically
from ..errors import BrokenSample, InputError, NoHand
from .draw import sheet, tile
from .images import Samples
from .spec import open_data

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass
class ShowConfig:
    """Draw a contact sheet: images spread evenly over the set, with their joints."""

    spec: str
    """the data: embedded, folder:PATH, shards:PATH-or-pattern, dexycb:PATH?split=s0/train, ..."""
    out: Path
    """picture to write: .png, .jpg or .webp"""
    num: int = 32
    """how many images"""
    joints: bool = True
    """draw the joints, a colour for each finger"""
    side: int = 160
    """of each image on the sheet, pixels"""


def show(config: ShowConfig) -> int:
    """Write the sheet.

    Returns:
        how many images are on it.

    Raises:
        InputError: for data or options that cannot be used, or a file that cannot be written.
    """
    for name in ("num", "side"):
        if not 1 <= getattr(config, name) <= 2000:
            raise InputError(f"--{name} is {getattr(config, name)}: it must be from 1 to 2000")
    if config.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out is '{config.out}': it must end in {', '.join(FORMATS)}")
    samples = open_data(config.spec)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(config.num, len(samples))).round().astype(int))
    drawn = [_draw(samples, int(i), config) for i in tqdm(chosen, desc="drawing", unit="img", delay=2, leave=False)]
    page = sheet(*zip(*drawn, strict=True), columns=math.ceil(math.sqrt(len(drawn) * 1.5)))
    out = io.BytesIO()
    page.save(out, FORMATS[config.out.suffix.lower()])
    write_atomically(config.out, out.getvalue())
    return len(drawn)


def _draw(samples: Samples, index: int, config: ShowConfig) -> tuple[Image.Image, str]:
    try:
        sample = samples[index]
    except NoHand:
        return Image.new("RGB", (config.side, config.side), "gray"), f"{index}: no hand"
    except BrokenSample:
        return Image.new("RGB", (config.side, config.side), "red"), f"{index}: broken"
    side = {None: "", True: " right", False: " left"}[sample.right]
    joints = sample.joints_px if config.joints else None
    return tile(sample.image, config.side, joints, sample.valid), sample.key + side
