"""From encoded files to batches of square uint8 images."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import InputError

if TYPE_CHECKING:
    from .folder import Folder
    from .shards import Shards


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Raises:
        InputError: naming the file, if it is no image or is truncated.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        reason = "no known image format" if isinstance(e, Image.UnidentifiedImageError) else str(e)
        raise InputError(f"image '{name}' cannot be read ({reason}): repair or remove it") from e


def square(image: np.ndarray, size: int) -> Tensor:
    """Centre crop to a square and resize, antialiased: (H, W, 3) -> (3, size, size) uint8."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]  # PIL's own `box` would let what is beside it in
    if side != size:
        resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
        image = np.asarray(resized)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class ImageSet(Dataset):
    """A data set's images as square uint8 tensors (3, size, size), labels left aside."""

    def __init__(self, samples: Folder | Shards, size: int):
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return square(self.samples[index].image, self.size)


class LoadedImages(Dataset):
    """Images that were decoded once and stay in memory: (N, 3, size, size) uint8."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def read(images: Dataset, batches: Iterable[list[int]], workers: int = 0) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) uint8 of the images at each list of indices, read ahead by worker processes.

    Raises:
        InputError: naming the first image that cannot be read.
    """
    workers = min(workers, _cores())
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers)  # type: ignore[arg-type]
    try:
        yield from loader
    except InputError as e:  # torch wraps a worker's error in its stack trace; the last line is the error's own
        raise InputError(str(e).strip().splitlines()[-1].rpartition("InputError: ")[2]) from e


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_all(samples: Folder | Shards, size: int, limit: int | None = None, workers: int = 0) -> LoadedImages:
    """Decode a set, or its first `limit` images, into memory, with a progress bar if it takes long.

    Raises:
        InputError: naming the first image that cannot be read.
    """
    images = ImageSet(samples, size)
    n = len(images) if limit is None else min(limit, len(images))
    chunks = [list(range(i, min(i + 64, n))) for i in range(0, n, 64)]
    out = torch.empty(n, 3, size, size, dtype=torch.uint8)
    with tqdm(total=n, desc="reading images", unit="img", delay=2, leave=False) as bar:
        for chunk, batch in zip(chunks, read(images, chunks, workers), strict=True):
            out[chunk[0] : chunk[-1] + 1] = batch
            bar.update(len(chunk))
    return LoadedImages(out)
