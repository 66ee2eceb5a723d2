"""Lightning: a ti_* encoder with a linear head for 21 joints, trained on the embedded hands.

python with_lightning.py
"""

import lightning
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

import ti_backbones  # noqa: F401  (registers the ti_* names)
from ti_backbones.data import open_data


class HandRegressor(lightning.LightningModule):
    """2D joints, as fractions of the image's side."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = timm.create_model(name, pretrained=pretrained)
        self.head = nn.Linear(self.encoder.head_hidden_size, 21 * 2)

    def forward(self, images):
        return self.head(self.encoder(images)).unflatten(-1, (21, 2))

    def training_step(self, batch, index):
        images, joints = batch
        return nn.functional.l1_loss(self(images), joints)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def hands(count: int):
    """(image, joints) pairs of the embedded training set."""
    samples = open_data("embedded")
    for sample in (samples[i] for i in range(count)):
        image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1) / 255
        yield image, torch.from_numpy(sample.joints_px) / len(sample.image)


def main() -> None:
    """Train for four steps."""
    model = HandRegressor("ti_resnet18", pretrained=False)
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    data = list(hands(32))
    trainer.fit(model, DataLoader(data, batch_size=8))
    images = torch.stack([image for image, _ in data[:2]])
    print("joints", tuple(model.eval()(images).shape))


if __name__ == "__main__":
    main()
