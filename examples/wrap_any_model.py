"""Wrap a timm model, move its latent, save it, and load the encoder with timm alone.

python examples/wrap_any_model.py [ARCHITECTURE]
"""

import math
import sys
import tempfile

import timm
import torch

from ti_backbones import TIBackbone


def main(architecture: str = "convnext_atto") -> None:
    """Show the four things that a TIBackbone adds to a timm model."""
    ti = TIBackbone(architecture).eval()
    images = torch.rand(4, 3, 96, 96)
    with torch.no_grad():
        z = ti(images)
        print(f"{architecture}: latent {tuple(z.shape)}, {ti.latent_transformer.rank} of its directions can move")

        # a quarter turn four times, and a flip twice, are the identity: for any weights
        turned = z
        for _ in range(4):
            turned = ti.transform(turned, angle=math.pi / 2)
        twice = ti.transform(ti.transform(z, flip=True), flip=True)
        size = (z - ti.latent_transformer.mean).norm()
        print(f"four quarter turns: off by {(turned - z).norm() / size:.1e}")
        print(f"two flips: off by {(twice - z).norm() / size:.1e}")

        with tempfile.TemporaryDirectory() as folder:
            ti.save_pretrained(folder)
            plain = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
            print(f"timm alone gives the same latent: {torch.equal(plain(images), z)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
