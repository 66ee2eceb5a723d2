"""mmpretrain's `TIMMBackbone`, mmengine's `Runner` with `custom_imports`, and mmpretrain's own training script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from hosting import CNN, EXAMPLES, assert_trains, both, feature_maps, pictures, run_python
from PIL import Image
from torch.testing import assert_close

from ti_backbones.data import open_data

CONFIG = EXAMPLES / "mmpretrain_config.py"
WIDTH = {"resnet18": 512, "vit_tiny_patch16_224": 192}

RUNNER = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile(sys.argv[1])
cfg.work_dir = sys.argv[2]
Runner.from_cfg(cfg).train()
"""


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """A folder with hands/{train,val}/{left,right}, of the embedded hands as they are."""
    for split, source in (("train", "embedded?split=train&mirror=no"), ("val", "embedded?split=test&mirror=no")):
        samples = open_data(source)
        for i in range(16):
            sample = samples[i]
            folder = tmp_path / "hands" / split / ("right" if sample.right else "left")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(folder / f"{i:03d}.jpg", quality=90)
    return tmp_path


def config(folder: Path, base: str, **changes: str) -> Path:
    """The example's config for a model with published weights, with more text replaced."""
    text = CONFIG.read_text()
    changes = {
        '"ti_resnet18"': f'"ti_{base}", pretrained=True',
        "in_channels=512": f"in_channels={WIDTH[base]}",
    } | changes
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "config.py"
    path.write_text(text)
    return path


def losses(folder: Path) -> list[float]:
    """The loss of every iteration, from the log that mmengine wrote."""
    (log,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def assert_trained(folder: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four finite losses, and a checkpoint that mmengine loads into a new model."""
    from mmengine.config import Config
    from mmengine.runner import load_checkpoint
    from mmpretrain.registry import MODELS
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    found = losses(folder)
    assert len(found) == 4
    assert all(loss == loss and loss < 100 for loss in found)

    # mmengine's checkpoint holds more than tensors, and mmengine leaves torch.load at PyTorch's strict default
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    saved = torch.load(folder / "iter_4.pth")["state_dict"]
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.model_name, cfg.head.in_channels = f"ti_{base}", WIDTH[base]
    model = MODELS.build(cfg)
    load_checkpoint(model, str(folder / "iter_4.pth"), strict=True)
    for name, value in model.state_dict().items():
        assert_close(value, saved[name], rtol=0, atol=0)


@pytest.mark.host("mmpretrain")
@both
def test_backbone_has_the_published_weights_trains_and_comes_back(base, published, tmp_path):
    from mmengine.runner import load_checkpoint, save_checkpoint
    from mmpretrain.registry import MODELS

    options = {"type": "TIMMBackbone", "model_name": f"ti_{base}", "features_only": True, "out_indices": (2, -1)}
    backbone, x = MODELS.build(options | {"pretrained": True}), pictures()
    backbone.eval()  # returns nothing
    backbone.init_weights()  # mmengine calls it before it trains: published weights must survive that
    last = 4 if base == CNN else 11
    for found, wanted in zip(backbone(x), feature_maps(published, x, (2, last)), strict=True):
        assert_close(found, wanted)
    backbone.train()
    assert_trains(backbone, sum(m.square().mean() for m in backbone(x)))

    save_checkpoint({"state_dict": backbone.state_dict()}, str(tmp_path / "backbone.pth"))
    back = MODELS.build(options)
    load_checkpoint(back, str(tmp_path / "backbone.pth"), strict=True)
    back.eval()
    backbone.eval()
    for found, wanted in zip(back(x), backbone(x), strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.host("mmengine")
@both
def test_runner_trains_the_example_config(base, hub, hands, monkeypatch):
    run_python(["-c", RUNNER, config(hands, base), hands / "work"], hands)
    assert_trained(hands / "work", base, monkeypatch)


def training_script() -> Path:
    """mmpretrain's tools/train.py, which its wheel carries."""
    return Path(str(resources.files("mmpretrain"))) / ".mim" / "tools" / "train.py"


@pytest.mark.host("mmpretrain_script")
@both
def test_training_script_runs_unchanged(base, hub, hands, monkeypatch):
    plain = config(hands, base, **{'custom_imports = dict(imports=["ti_backbones"])\n': ""})
    run_python(["-m", "ti_backbones.run", training_script(), plain, "--work-dir", hands / "work"], hands)
    assert_trained(hands / "work", base, monkeypatch)


@pytest.mark.host("mmpretrain_script")
def test_the_same_command_without_us_knows_no_such_model(hands):
    plain = config(hands, CNN, **{'custom_imports = dict(imports=["ti_backbones"])\n': ""})
    command = [sys.executable, str(training_script()), str(plain), "--work-dir", str(hands / "work")]
    done = subprocess.run(command, cwd=hands, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Unknown model (ti_resnet18)" in done.stderr
