"""lightly: SimCLR on a ti_* encoder.

python with_lightly.py
"""

import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

import ti_backbones  # noqa: F401  (registers the ti_* names)


class SimCLR(nn.Module):
    """An encoder and lightly's projection head."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        self.encoder = timm.create_model(name, pretrained=pretrained)
        width = self.encoder.head_hidden_size
        self.projection = SimCLRProjectionHead(width, width, 128)

    def forward(self, images):
        return self.projection(self.encoder(images))


def main() -> None:
    """One step on two views of random images."""
    model = SimCLR("ti_resnet18", pretrained=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images = torch.rand(8, 3, 64, 64)
    loss = NTXentLoss()(model(images), model(images.flip(-1)))
    loss.backward()
    optimizer.step()
    print(f"NT-Xent loss {loss.item():.2f}")


if __name__ == "__main__":
    main()
