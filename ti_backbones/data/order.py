"""The order of images and everything random about them, as functions of (seed, step, position).

So a resumed run, or one on another number of processes, sees the same images in the same order,
transformed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

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


class StepSampler:
    """Index lists, one for every step from `start` on, for one rank's share of each global batch.

    Each epoch is a fresh permutation; its last incomplete batch is dropped.

    Args:
        length: images in the set. batch: global batch. steps: where to end. start: where to begin.
        seed, rank, world: which permutation, whose share.
    """

    def __init__(self, length: int, batch: int, steps: int, start: int, seed: int, rank: int = 0, world: int = 1):
        self.length, self.batch, self.steps, self.start = length, batch, steps, start
        self.seed, self.rank, self.world = seed, rank, world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        share, per_epoch, order = self.batch // self.world, self.length // self.batch, None
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, per_epoch)
            if order is None or position == 0:
                order = torch.randperm(self.length, generator=generator(self.seed, 0, epoch))
            first = position * self.batch + self.rank * share
            yield order[first : first + share].tolist()
