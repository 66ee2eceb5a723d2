"""What the tests share: one thread, a seed, the devices and a few images.

Equality to the bit needs one thread, and so does forking (`running.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that there is."""
    return request.param


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 76 JPEGs from the embedded test set: 73 are trained on if no test set is named."""
    from ti_backbones.data import open_data

    folder, samples = tmp_path_factory.mktemp("images"), open_data("embedded", "test")
    for i in range(76):
        Image.fromarray(samples[i].image).save(folder / f"{i:03d}.jpg", quality=90)
    return folder
