"""timm's own train.py through `python -m ti_backbones.run`, and the resumed run.

timm's packages do not carry that script, and this repository does not copy it: TI_BACKBONES_TIMM_TRAIN names the
file `train.py` of timm's repository, at the release that is installed.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from hosting import CNN, both, run_python
from PIL import Image

from ti_backbones.data import open_data

VARIABLE = "TI_BACKBONES_TIMM_TRAIN"


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """A folder with {train,validation}/{left,right}, as timm's script reads it."""
    for split, source in (("train", "embedded?mirror=no"), ("validation", "embedded?split=test&mirror=no")):
        samples = open_data(source)
        for i in range(16):
            sample = samples[i]
            folder = tmp_path / "hands" / split / ("right" if sample.right else "left")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(folder / f"{i:03d}.jpg")
    return tmp_path


@pytest.mark.host("timm_script")
@both
def test_timms_script_trains_and_resumes(base, hub, hands):
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} does not name timm's train.py")
    shape = [64, 64] if base == CNN else [224, 224]
    options = ["--model", f"ti_{base}", "--pretrained", "--num-classes", 2, "--device", "cpu", "--workers", 0]
    options += ["--input-size", 3, *shape, "--batch-size", 8, "--epochs", 2, "--opt", "adamw", "--lr", "1e-4"]
    options += ["--cooldown-epochs", 0, "--warmup-epochs", 0, "--output", hands / "out"]
    script = ["-m", "ti_backbones.run", os.environ[VARIABLE], hands / "hands", *options]
    run_python([*script, "--experiment", "first"], hands)
    rows = list(csv.DictReader((hands / "out" / "first" / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    last = hands / "out" / "first" / "last.pth.tar"
    assert torch.load(last, map_location="cpu", weights_only=False)["arch"] == f"ti_{base}"
    run_python([*script, "--experiment", "second", "--epochs", 3, "--resume", last], hands)
    rows = list(csv.DictReader((hands / "out" / "second" / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["2"]
