"""What host tests do with every host."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CNN, VIT = "resnet18", "vit_tiny_patch16_224"
BASES = (CNN, VIT)
ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "hosts"

both = pytest.mark.parametrize("base", [pytest.param(CNN, id="CNN"), pytest.param(VIT, id="ViT")])


def pictures(count: int = 2, side: int = 224) -> Tensor:
    """(B, 3, side, side) random images."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def feature_maps(encoder: Any, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
    """Feature maps (B, C, h, w) of a timm model, without timm's `features_only` form."""
    return encoder.forward_intermediates(x, indices=list(indices), intermediates_only=True)


def assert_trains(module: nn.Module, loss: Tensor, unused: Sequence[str] = ()) -> None:
    """A backward pass reaches every parameter but those that the host does not use.

    Nearly all get something from it: a dead ReLU may cost a few.
    """
    module.zero_grad()
    loss.backward()
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert parameters
    assert [n for n, p in parameters.items() if p.grad is None] == list(unused)
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.9 * len(parameters)


def run_example(name: str, folder: Path, **environment: str) -> str:
    """What an example prints, run as its first lines say, from a folder."""
    return run_python([EXAMPLES / name], folder, **environment)


def run_python(arguments: list, folder: Path, **environment: str) -> str:
    """What `python ARGUMENTS` prints, in a process of its own; it must succeed."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return done.stdout


def constants(name: str) -> dict:
    """The names that an example defines, without its main part."""
    return runpy.run_path(str(EXAMPLES / name), run_name="example")
