"""segmentation_models_pytorch: a U-Net with a ti_* encoder, by its name with tu- in front.

python with_segmentation_models.py
"""

import segmentation_models_pytorch as smp
import torch

import ti_backbones  # noqa: F401  (registers the ti_* names)


def main() -> None:
    """Hand and background of two images."""
    # encoder_weights=True starts from published weights; a ViT wants smp.DPT instead
    model = smp.Unet("tu-ti_resnet18", encoder_weights=None, classes=2)
    mask = model(torch.rand(2, 3, 224, 224))
    print("mask", tuple(mask.shape))


if __name__ == "__main__":
    main()
