"""The order of images and everything random about them, as functions of (seed, step, position).

So a resumed run, or one on another number of processes, sees the same images in the same order,
transformed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def generator(*numbers: int) -> torch.Generator:
    """A generator seeded by several numbers together."""
    state = 0x9E3779B97F4A7C15
    for n in numbers:  # splitmix64 over the sequence
        state = (state + n + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def uniforms(seed: int, step: int, batch: int, count: int) -> Tensor:
    """(batch, count) uniform numbers in [0, 1) for one step's global batch."""
    return torch.rand(batch, count, generator=generator(seed, 1, step), dtype=torch.float64)


WINDOW = 16_384
"""Samples that are mixed with each other, at least, where reading in any order would be slow."""


def permutation(length: int, seed: int, epoch: int, starts: np.ndarray | None = None, window: int = WINDOW) -> Tensor:
    """The order (length,) of an epoch.

    Args:
        length: samples in the set. seed, epoch: which permutation.
        starts: the first sample of every file, where samples lie together in files. The files are then permuted, and
            the samples within each `window` of files: every file is read in one stretch of the epoch, and its
            neighbours differ from epoch to epoch. None: any order.
    """
    random = generator(seed, 0, epoch)
    windows = max(length // window, 1)
    if starts is None or windows == 1:
        return torch.randperm(length, generator=random)
    begins = torch.as_tensor(starts)
    sizes = torch.diff(begins, append=torch.tensor([length]))
    files = torch.randperm(len(begins), generator=random)
    begins, sizes = begins[files], sizes[files]
    new = sizes.cumsum(0) - sizes  # where each file's samples begin now
    order = torch.arange(length) + (begins - new).repeat_interleave(sizes)
    window_of = (new * windows // length).clamp(max=windows - 1)  # a last, empty file begins at the end
    counts = torch.zeros(windows, dtype=torch.int64).index_add_(0, window_of, sizes)
    parts = [part[torch.randperm(len(part), generator=random)] for part in order.split(counts.tolist())]
    return torch.cat(parts)


class StepSampler:
    """Index lists, one for every step from `start` on, for one rank's share of each global batch.

    Each epoch is a fresh permutation; its last incomplete batch is dropped.

    Args:
        length: images in the set. batch: global batch. steps: where to end. start: where to begin.
        seed, rank, world: which permutation, whose share.
        starts, window: see `permutation`.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        steps: int,
        start: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        starts: np.ndarray | None = None,
        window: int = WINDOW,
    ):
        self.length, self.batch, self.steps, self.start = length, batch, steps, start
        self.seed, self.rank, self.world, self.starts, self.window = seed, rank, world, starts, window

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        share, per_epoch, order = self.batch // self.world, self.length // self.batch, None
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, per_epoch)
            if order is None or position == 0:
                order = permutation(self.length, self.seed, epoch, self.starts, self.window)
            first = position * self.batch + self.rank * share
            yield order[first : first + share].tolist()
