"""transformers: a model folder with AutoModel, which needs timm but not this package; a ti_* name with TimmBackbone.

python with_transformers.py
"""

import tempfile

import torch
from transformers import AutoModel, TimmBackbone, TimmBackboneConfig

from ti_backbones import TIBackbone


def main() -> None:
    """The latent from AutoModel, feature maps from TimmBackbone."""
    images = torch.rand(2, 3, 224, 224)

    with tempfile.TemporaryDirectory() as folder:  # or a repository on the Hub: AutoModel.from_pretrained("org/name")
        TIBackbone("resnet18").save_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
    print("latent", tuple(model(images).pooler_output.shape))

    # TimmBackbone.from_pretrained("ti_resnet18", out_indices=[1, 2, 3, 4]) starts from published weights
    backbone = TimmBackbone(TimmBackboneConfig(backbone="ti_resnet18", out_indices=[1, 2, 3, 4]))
    print("feature maps", [tuple(m.shape) for m in backbone(images).feature_maps])


if __name__ == "__main__":
    main()
