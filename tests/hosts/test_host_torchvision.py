"""torchvision: `FeaturePyramidNetwork`, and `KeypointRCNN` on `BackboneWithFPN`, on `ti_*` encoders."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from hosting import assert_trains, both, constants, feature_maps, pictures, run_example
from torch import nn
from torch.testing import assert_close

STAGES = {"resnet18": (1, 2, 3, 4), "vit_tiny_patch16_224": (2, 5, 8, 11)}


class Pyramid(nn.Module):
    """An encoder's feature maps, and torchvision's pyramid on them."""

    def __init__(self, base: str):
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.encoder = timm.create_model(f"ti_{base}", pretrained=True, features_only=True, out_indices=STAGES[base])
        self.pyramid = FeaturePyramidNetwork(self.encoder.feature_info.channels(), 32)

    def forward(self, x):
        return self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(self.encoder(x))))


@pytest.mark.host("torchvision")
@both
def test_pyramid_on_published_weights(base, published, tmp_path):
    model, x = Pyramid(base).eval(), pictures()
    expected = feature_maps(published, x, STAGES[base])
    for found, wanted in zip(model.encoder(x), expected, strict=True):
        assert_close(found, wanted)
    maps = model(x)
    assert [m.shape[2:] for m in maps.values()] == [m.shape[2:] for m in expected]
    assert_trains(model.train(), sum(m.square().mean() for m in model(x).values()))

    torch.save(model.eval().state_dict(), tmp_path / "weights.pth")
    back = Pyramid(base).eval()
    back.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    for name, wanted in model(x).items():
        assert_close(back(x)[name], wanted, rtol=0, atol=0)


@pytest.mark.host("torchvision_keypoints")
@pytest.mark.parametrize("base", [pytest.param("resnet18", id="CNN")])
def test_hand_keypoint_detector_trains(base, published, tmp_path):
    detector = constants("with_torchvision.py")["detector"]
    model = detector(f"ti_{base}", pretrained=True)
    x = pictures()
    assert_close(model.eval().backbone.body(x)["3"], published.forward_features(x))
    box = torch.tensor([[20.0, 30, 160, 180]])
    joints = torch.cat([torch.rand(1, 21, 2) * 100 + 40, torch.ones(1, 21, 1)], -1)
    target = {"boxes": box, "labels": torch.tensor([1]), "keypoints": joints}
    losses = model.train()(list(pictures()), [target, target])
    assert {"loss_classifier", "loss_keypoint", "loss_objectness"} <= set(losses)
    assert_trains(model, sum(losses.values()))

    torch.save(model.state_dict(), tmp_path / "detector.pth")
    back = detector(f"ti_{base}", pretrained=False)
    back.load_state_dict(torch.load(tmp_path / "detector.pth", weights_only=True))
    found, wanted = back.eval()(list(pictures())), model.eval()(list(pictures()))
    assert found[0]["keypoints"].shape[1:] == (21, 3)
    assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.host("torchvision_keypoints")
def test_example_runs(hub, tmp_path):
    assert "hands with 21 joints" in run_example("with_torchvision.py", tmp_path)
