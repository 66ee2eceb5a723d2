"""One process or many, under torchrun: the same calls."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """Attributes: rank, size (number of processes), device of this process."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0


def join(device: str = "auto") -> World:
    """Join the process group that torchrun announces, or stand alone.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
    """
    cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    local = int(os.environ.get("LOCAL_RANK", 0))
    where = torch.device(f"cuda:{local}" if cuda else "cpu" if device == "auto" else device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return World(0, 1, where)
    if cuda:
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
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
