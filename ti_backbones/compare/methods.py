"""The methods that are compared: how many encoder views a step shows of each image, and what is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..objective import PRESETS, Objective, TIObjective
from .contrastive import PeCLR, SimCLR


class Autoencoder(TIObjective):
    """Draws rotated and flipped views from their own features: no latent transformer, nothing that moves."""

    def forward(self, images: Tensor, u: Tensor) -> dict[str, Tensor]:
        _, inputs, targets = self.views(images, u)
        z, maps = self.ti.encode(torch.cat(inputs).contiguous(memory_format=torch.channels_last))
        return {"loss": self.draw(z.float() if self.objective.decode == "pooled" else maps, torch.cat(targets))}


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        views: encoder views of each image in a step; 0: it is not pretrained.
        make: from the TI objective of the same encoder, the module that is trained: it has `ti`, and gives a dict of
            scalars with "loss" for images and uniform numbers. None: that objective itself.
        objective: of the TI objective that is built.
        extra: the package that it needs, if any.
    """

    views: int
    make: Callable[[TIObjective], nn.Module] | None = None
    objective: Objective = PRESETS["o2"]
    extra: str = ""

    @property
    def trains_transformer(self) -> bool:
        return bool(self.views) and self.make is None


def _autoencoder(base: TIObjective) -> Autoencoder:
    mean, std = (x.flatten().tolist() for x in (base.image_mean, base.image_std))
    return Autoencoder(base.ti, base.decoder, base.objective, mean, std)


def _simclr(base: TIObjective) -> SimCLR:
    return SimCLR(base.ti, base.image_mean, base.image_std)


def _peclr(base: TIObjective) -> PeCLR:
    return PeCLR(base.ti, base.image_mean, base.image_std)


START = "start"
"""the row of the weights that `--init` gives, fine-tuned directly"""

METHODS: dict[str, Method] = {
    "scratch": Method(0),
    START: Method(0),
    "autoencoder": Method(2, _autoencoder, replace(PRESETS["autoencoder"], decode="map")),
    "autoencoder-pooled": Method(2, _autoencoder, PRESETS["autoencoder"]),
    "simclr": Method(2, _simclr, extra="lightly"),
    "peclr": Method(2, _peclr, extra="lightly"),
    "ti-paper": Method(14, objective=PRESETS["paper"]),
    "ti-o2": Method(2),
}
