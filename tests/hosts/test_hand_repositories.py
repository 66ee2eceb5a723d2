"""Hand-pose repositories' backbones, rebuilt from torchvision, give timm's features once our file is loaded."""

from __future__ import annotations

import pytest
import timm
import torch
from hosting import constants, pictures, run_example
from torch.testing import assert_close

from ti_backbones import TIBackbone

EXAMPLE = constants("hand_repositories.py")
BUILDS = {
    "peclr": ("torchvision_resnet", lambda m, x: m(x)),
    "handmesh-cmr": ("torchvision_resnet", lambda m, x: m(x)),
    "peclr-pretraining": ("numbered_resnet", lambda m, x: m.features(x).flatten(1)),
    "handoccnet": (
        "pyramid_resnet",
        lambda m, x: m.layer4(m.layer3(m.layer2(m.layer1(m.layer0(x))))).mean((2, 3)),
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_written_weights_give_timms_latent(name, tmp_path):
    repository = EXAMPLE["REPOSITORIES"][name]
    TIBackbone(repository.model.removeprefix("ti_")).save_pretrained(tmp_path / "model")
    EXAMPLE["main"](name, str(tmp_path / "model"), str(tmp_path / "out.pth"))

    build, forward = BUILDS[name]
    model = EXAMPLE[build](repository.model.removeprefix("ti_")).eval()
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=True)
    expected = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=0).eval()
    assert_close(forward(model, pictures()), expected(pictures()))


@pytest.mark.parametrize("name", EXAMPLE["REPOSITORIES"])
def test_every_key_and_shape_fits(name):
    count, wrong = EXAMPLE["compare"](name)
    assert count > 100
    assert wrong == []


def test_example_runs(tmp_path):
    said = run_example("hand_repositories.py", tmp_path)
    assert said.count(" 0 do not fit []") == len(EXAMPLE["REPOSITORIES"])
    assert "feature map (1, 768, 7, 7)" in said
