"""fastai: a learner with a ti_* encoder, by its name.

python with_fastai.py
"""

import torch
from fastai.vision.all import DataLoaders, vision_learner
from torch.utils.data import DataLoader

import ti_backbones  # noqa: F401  (registers the ti_* names)
from ti_backbones.data import open_data


def main() -> None:
    """Tell left hands from right ones."""
    samples = open_data("embedded?mirror=no")
    data = [
        (torch.from_numpy(s.image.copy()).permute(2, 0, 1) / 255, int(bool(s.right)))
        for s in (samples[i] for i in range(64))
    ]
    loaders = DataLoaders(DataLoader(data[:48], batch_size=8), DataLoader(data[48:], batch_size=8))
    learner = vision_learner(
        loaders, "ti_resnet18", n_out=2, pretrained=False, normalize=False, loss_func=torch.nn.CrossEntropyLoss()
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3)
    print(f"trained for one epoch: loss {learner.recorder.values[-1][0]:.2f}")


if __name__ == "__main__":
    main()
