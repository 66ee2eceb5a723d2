"""mmpose's hand configs train on a `ti_*` backbone, and on their own ResNet with an exported `.pth`.

`mmpose.md` beside this file says how mmpose is built; with --host-results the losses are written beside that file.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hosting import CNN, EXAMPLES, both, feature_maps, pictures, run_python
from PIL import Image
from torch.testing import assert_close

from ti_backbones import TIBackbone
from ti_backbones.data import open_data

pytestmark = pytest.mark.mmpose
ITERATIONS, BATCH, SIDE = 50, 4, 224

SHORT_RUN = f"""
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={ITERATIONS}, val_interval={ITERATIONS})
param_scheduler = []
log_processor = dict(by_epoch=False)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval={ITERATIONS}))
train_dataloader = dict(batch_size={BATCH}, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size={BATCH}, num_workers=0, persistent_workers=False)
randomness = dict(seed=0)
"""
VIT_HEAD = """
model = dict(
    backbone=dict(model_name="ti_vit_tiny_patch16_224", pretrained=True),
    head=dict(in_channels=192, deconv_out_channels=(256, 256), deconv_kernel_sizes=(4, 4)),
)
"""


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """A folder with data/freihand as mmpose has it, of embedded hands: COCO files, images of 224 pixels."""
    root = tmp_path / "data" / "freihand"
    (root / "annotations").mkdir(parents=True)
    for split, source, count in (("train", "embedded?split=train", 96), ("val", "embedded?split=test", 16)):
        (root / split).mkdir()
        samples, images, annotations = open_data(source), [], []
        for i in range(count):
            sample, name = samples[i], f"{split}/{i:04d}.jpg"
            Image.fromarray(sample.image).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(root / name, quality=95)
            assert sample.joints_px is not None
            # ours: the first pixel's centre is at 0.5; COCO's keypoints have it at 0
            joints = sample.joints_px * SIDE / len(sample.image) - 0.5
            points = np.concatenate([joints, np.full((21, 1), 2)], 1).ravel().tolist()
            images.append({"id": i, "file_name": name, "width": SIDE, "height": SIDE})
            annotation = {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": [],
                "num_keypoints": 21,
            }
            annotations.append(annotation | {"keypoints": points, "bbox": [0, 0, SIDE, SIDE], "area": SIDE**2})
        names = [
            "wrist",
            *(f"{finger}{i}" for finger in ("thumb", "index", "middle", "ring", "little") for i in range(4)),
        ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "hand", "keypoints": names, "skeleton": []}],
        }
        (root / "annotations" / f"freihand_{split}.json").write_text(json.dumps(content))
    return tmp_path


def train(example: str, folder: Path, more: str = "") -> Path:
    """Train one of the examples' configs with mmpose's own script; its working folder."""
    config, work = folder / "config.py", folder / "work"
    config.write_text(f'_base_ = "{EXAMPLES / example}"\n{SHORT_RUN}{more}')
    script = Path(str(resources.files("mmpose"))) / ".mim" / "tools" / "train.py"
    run_python([script, config, "--work-dir", work], folder)
    return work


def assert_learns(work: Path, log: Path | None, title: str) -> None:
    """The loss fell over all iterations, the hand metrics were measured, the checkpoint was written."""
    (scalars,) = work.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line["loss_kpt"] for line in lines if "loss_kpt" in line]
    metrics = {k: v for k, v in lines[-1].items() if k in ("PCK", "AUC", "EPE")}
    assert len(losses) == ITERATIONS
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert set(metrics) == {"PCK", "AUC", "EPE"}
    assert (work / f"iter_{ITERATIONS}.pth").is_file()
    if log is not None:
        known = json.loads(log.read_text()) if log.is_file() else {}
        known[title] = {"loss_kpt": losses, "validation": metrics}
        log.write_text(json.dumps(known, indent=1) + "\n")


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Path | None:
    """Where the committed log goes, if this run's results are kept."""
    results = request.config.getoption("--host-results", None)
    return results and results.with_name("mmpose_log.json")


@pytest.mark.host("mmpose")
@both
def test_hand_config_trains_on_a_ti_backbone(base, hub, hands, log):
    model = VIT_HEAD if base != CNN else 'model = dict(backbone=dict(model_name="ti_resnet18", pretrained=True))'
    work = train("mmpose_config.py", hands, model)
    assert_learns(work, log, f"mmpretrain.TIMMBackbone ti_{base}")


@pytest.mark.host("mmpose")
@both
def test_the_configs_model_has_the_published_weights(base, published, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    (tmp_path / "config.py").write_text(
        f'_base_ = "{EXAMPLES / "mmpose_config.py"}"\n'
        f'model = dict(backbone=dict(model_name="ti_{base}", pretrained=True))\n'
    )
    cfg = Config.fromfile(tmp_path / "config.py")
    init_default_scope("mmpose")
    model, x = MODELS.build(cfg.model), pictures()
    model.init_weights()
    model.eval()
    (wanted,) = feature_maps(published, x, [4 if base == CNN else 11])
    assert_close(model.backbone(x)[-1], wanted)


@pytest.mark.host("mmpose_pth")
@pytest.mark.parametrize("base", [pytest.param("resnet50", id="CNN")])
def test_hand_config_trains_its_own_resnet_from_an_exported_pth(base, hands, log):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    from ti_backbones.export import ExportConfig, export

    TIBackbone(base).save_pretrained(hands / "ti_resnet50")
    export(ExportConfig(str(hands / "ti_resnet50"), to="pth", out=hands / "ti_resnet50.pth"))
    cfg = Config.fromfile(EXAMPLES / "mmpose_pth_config.py")
    cfg.model.backbone.init_cfg.checkpoint = str(hands / "ti_resnet50.pth")
    init_default_scope("mmpose")
    model, x = MODELS.build(cfg.model), pictures()
    model.init_weights()
    model.eval()
    plain = timm.create_model(f"local-dir:{hands / 'ti_resnet50'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        assert_close(model.backbone(x)[-1], plain.forward_features(x))

    assert_learns(train("mmpose_pth_config.py", hands), log, "mmpose's ResNet-50 from ti_resnet50.pth")
