"""One process or many, under torchrun: the same calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import InputError, first_line


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0

    def average(self, values: Tensor) -> Tensor:
        """The mean of every process's values, without gradient."""
        values = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's plain value, by rank."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Whatever is wrong with one process's input stops them all, rather than have the others wait.

        Every process must come here equally often, and must not communicate in the body.

        Raises:
            InputError: that of the body; else the first that another process met.
        """
        mine = None
        try:
            yield
        except InputError as e:
            mine = e
        if self.size > 1:
            failed = torch.tensor(float(mine is not None), device=self.device)
            dist.all_reduce(failed)
            if failed:
                said: list = [None] * self.size
                dist.all_gather_object(said, mine and str(mine))
                mine = mine or InputError(next(message for message in said if message))
        if mine is not None:
            raise mine


def find_device(name: str) -> torch.device:
    """The device of a `--device` option: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as e:
        reason = first_line(e, 120)
        raise InputError(f"--device is '{name}', which cannot be used here ({reason}): give auto or cpu") from e
    return device


def join(device: str = "auto") -> World:
    """Join the process group that torchrun announces, or stand alone.

    Args:
        device: see `find_device`; under torchrun each process takes the CUDA device of its local rank.

    Raises:
        InputError: if there is no such device.
    """
    where = find_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return World(0, 1, where)
    if where.type == "cuda":
        where = find_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), where)


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, c, lambda: False)() for c in checks)
