"""`ti-backbones data pack`: any set as tar shards of crops, read from end to end in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from ..errors import BrokenSample, NoHand, Rule, check_options
from .broken import Item, Tally
from .crop import Square, crop_matrix, move_points
from .images import Samples, each, square
from .order import permutation
from .sample import Sample
from .spec import open_data
from .writer import LeftOut, Member, ShardWriter, member


@dataclass
class PackConfig:
    """Write a set's crops as tar shards with labels, for fast training (`shards:OUT`).

    The same command continues a packing that was interrupted. Broken samples are left out and named; more than 1 %
    of them stop it.
    """

    spec: str
    """the data: embedded, folder:PATH, shards:PATH-or-pattern, dexycb:PATH?split=s0/train, ..."""
    out: Path
    """folder of the shards"""
    size: int = 0
    """side of the images, pixels; 0: as they are. Sets with crops take ?size=... in SPEC, which resizes only once"""
    quality: int = 95
    """of the JPEGs, 1 to 100"""
    shuffle: bool = True
    """mix the samples over all shards, so that what is read in a row varies; else keep their order"""
    per_shard: int = 1000
    """samples a shard"""
    workers: int = 2
    """processes that read and encode"""


def pack(config: PackConfig) -> ShardWriter:
    """Write what is missing of the shards.

    Raises:
        InputError: for data or options that cannot be used, a folder that holds something else, a file that cannot be
            written, or too many broken samples; finished shards stay.
    """
    rules: list[Rule] = [
        ("size", config.size >= 0, "0 or more"),
        ("quality", 1 <= config.quality <= 100, "from 1 to 100"),
        ("per_shard", config.per_shard >= 1, "at least 1"),
        ("workers", config.workers >= 0, "0 or more"),
    ]
    check_options(config, rules)
    samples = open_data(config.spec)
    n = len(samples)
    source = {"spec": config.spec, "size": config.size, "quality": config.quality, "shuffle": config.shuffle}
    writer = ShardWriter(config.out, n, source, config.per_shard)
    order = permutation(n, 0, 0).tolist() if config.shuffle else list(range(n))
    missing = [order[i] for number in writer.missing() for i in writer.indices(number)]
    tally = Tally(n, config.spec)
    with tqdm(total=n, initial=n - len(missing), desc="packing", unit="img", delay=2, leave=False) as bar:
        members = _counted(each(_Members(samples, config), missing, config.workers), tally, bar)
        for number in writer.missing():
            writer.write(number, itertools.islice(members, len(writer.indices(number))))
            tally.share()
            tally.check()
    writer.finish()
    return writer


def _counted(members: Iterator[Member | LeftOut], tally: Tally, bar: tqdm) -> Iterator[Member | LeftOut]:
    for m in members:
        tally.count([Item(None, False, [m.reason] if isinstance(m, LeftOut) and m.broken else [])])
        bar.update()
        yield m


class _Members(Dataset):
    """A set's samples as they go into shards."""

    def __init__(self, samples: Samples, config: PackConfig):
        self.samples, self.size, self.quality = samples, config.size, config.quality

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Member | LeftOut:
        try:
            return member(fit(self.samples[index], self.size), self.quality)
        except BrokenSample as e:
            return LeftOut(str(e), not isinstance(e, NoHand))


def fit(sample: Sample, size: int) -> Sample:
    """A sample's central square, resized to `size` (0: the sample as it is), with its labels."""
    height, width = sample.image.shape[:2]
    if not size or height == width == size:
        return sample
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    matrix = crop_matrix(Square(left, top, side), size)
    mask = sample.mask
    if mask is not None:
        part = Image.fromarray(mask[top : top + side, left : left + side])
        mask = np.asarray(part.resize((size, size), Image.Resampling.NEAREST))
    return replace(
        sample,
        image=square(sample.image, size).permute(1, 2, 0).numpy(),
        joints_px=None if sample.joints_px is None else move_points(matrix, sample.joints_px).astype(np.float32),
        intrinsics=None if sample.intrinsics is None else (matrix @ sample.intrinsics).astype(np.float32),
        crop=matrix if sample.crop is None else matrix @ sample.crop,
        mask=mask,
    )
