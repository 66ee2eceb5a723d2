"""torchvision: a detector of hands and their 21 joints, with a ti_* encoder under its feature pyramid.

python with_torchvision.py
"""

import timm
import torch
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import ti_backbones  # noqa: F401  (registers the ti_* names)


def detector(name: str, pretrained: bool) -> KeypointRCNN:
    """A Keypoint R-CNN for hands on one of timm's ResNets."""
    encoder = timm.create_model(name, pretrained=pretrained)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    channels = [stage["num_chs"] for stage in encoder.feature_info[1:]]
    pyramid = BackboneWithFPN(encoder, layers, channels, out_channels=64)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5)
    options = {"rpn_anchor_generator": anchors, "min_size": 224, "max_size": 224, "box_detections_per_img": 4}
    return KeypointRCNN(pyramid, num_classes=2, num_keypoints=21, **options)


def main() -> None:
    """Two images through an untrained detector."""
    model = detector("ti_resnet18", pretrained=False).eval()
    with torch.no_grad():
        found = model([torch.rand(3, 224, 224), torch.rand(3, 224, 224)])
    print([len(f["keypoints"]) for f in found], "hands with 21 joints")


if __name__ == "__main__":
    main()
