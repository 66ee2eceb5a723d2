"""From encoded files to batches of square uint8 images."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import BrokenSample, InputError
from .broken import Item, Skipping, Tally, collate
from .sample import Sample


class Samples(Protocol):
    """A set: a sequence of samples.

    Those that lie together, as in tar files, say where each file's begin: `starts`.
    """

    spec: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Raises:
        BrokenSample: naming the file, if it is no image or is truncated.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        reason = "no known image format" if isinstance(e, Image.UnidentifiedImageError) else str(e)
        raise BrokenSample(f"image '{name}' cannot be read ({reason}): repair or remove it") from e


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


class Selection:
    """Some samples of a set.

    Args:
        indices: ascending if its `starts` are to be used: samples that lie together then stay together.
    """

    def __init__(self, samples: Samples, indices: np.ndarray):
        self.samples, self.indices, self.spec = samples, indices, samples.spec
        starts = getattr(samples, "starts", None)
        self.starts = None if starts is None else np.searchsorted(indices, starts)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[int(self.indices[index])]


class ImageSet(Dataset):
    """A data set's images as square uint8 tensors (3, size, size), labels left aside."""

    def __init__(self, samples: Samples, size: int):
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


def read(dataset: Dataset, batches: Iterable[list[int]], workers: int = 0, tally: Tally | None = None) -> Iterator[Any]:
    """Batches of a dataset's values at each list of indices, read ahead by worker processes.

    Args:
        dataset: of tensors, or tuples or dicts of them. One sample that cannot be used raises `BrokenSample`.
        tally: counts what is broken; it is for the caller to share and check.

    Raises:
        InputError: if hardly any sample can be used.
    """
    for batch, items in _read(dataset, batches, workers):
        if tally is not None:
            tally.count(items)
        yield batch


def _read(dataset: Dataset, batches: Iterable[list[int]], workers: int) -> Iterator[tuple[Any, list[Item]]]:
    return _from_workers(Skipping(dataset), batches, workers, collate)


def each(dataset: Dataset, indices: Sequence[int], workers: int = 0) -> Iterator[Any]:
    """A dataset's values, whatever they are, at indices, in that order, made ahead by worker processes.

    Raises:
        InputError: that of the first value that raises one.
    """
    batches = [indices[i : i + 16] for i in range(0, len(indices), 16)]
    yield from itertools.chain.from_iterable(_from_workers(dataset, batches, workers, list))


def _from_workers(dataset: Dataset, batches: Iterable, workers: int, collate: Callable) -> Iterator[Any]:
    workers = min(workers, cores())
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate)  # pyright: ignore
    try:
        yield from loader
    except InputError as e:  # torch wraps a worker's error in its stack trace; the last line is the error's own
        last = str(e).strip().splitlines()[-1]
        raise InputError(re.sub(r"^ti_backbones\.errors\.\w+: ", "", last)) from e


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_all(
    samples: Samples, size: int, limit: int | None = None, workers: int = 0, tally: Tally | None = None
) -> LoadedImages:
    """Decode a set, or its first `limit` images, into memory, with a progress bar if it takes long.

    Args:
        tally: counts and names what is broken; others stand there, as in `read`. Without one, broken images are
            left out and named on stderr.

    Raises:
        InputError: if too many images are broken.
    """
    n = len(samples) if limit is None else min(limit, len(samples))
    chunks = [list(range(i, min(i + 64, n))) for i in range(0, n, 64)]
    out = torch.empty(n, 3, size, size, dtype=torch.uint8)
    own, replaced = tally or Tally(n, samples.spec), []
    with tqdm(total=n, desc="reading images", unit="img", delay=2, leave=False) as bar:
        for chunk, (batch, items) in zip(chunks, _read(ImageSet(samples, size), chunks, workers), strict=True):
            out[chunk[0] : chunk[-1] + 1] = batch
            replaced += [item.replaced for item in items]
            own.count(items)
            bar.update(len(chunk))
    own.share()
    own.check()
    if tally is not None:
        return LoadedImages(out)
    for line in own.news():
        print(f"left out: {line}", file=sys.stderr)
    return LoadedImages(out[~torch.tensor(replaced, dtype=torch.bool)] if any(replaced) else out)
