"""An encoder whose latent is isomorphic by construction: the image's complex moments about its centre.

For w = u + iv (u right, v down), the moment ∫ x(w) w^k turns by the irreducible representation of
frequency k; even ones need a factor i to meet the convention diag(-1, 1)^f. It shares no code with
the package, so that agreement of the two is a check of every convention between image and latent.
"""

import torch
from torch import nn

from ti_backbones.backbone import TIBackbone
from ti_backbones.latent import O2Representation

FREQUENCIES = 4


class MomentEncoder(nn.Module):
    """(B, 3, S, S) -> (B, 3 + 3 x 2 x FREQUENCIES): channel means, then (Re, Im) pairs by frequency."""

    def __init__(self):
        super().__init__()
        self.num_features = self.head_hidden_size = 3 + 6 * FREQUENCIES
        self.pretrained_cfg = {"architecture": "moments", "mean": (0.5,) * 3, "std": (0.25,) * 3, "classifier": None}
        self.scale = nn.Parameter(torch.ones(()))

    def reset_classifier(self, num_classes, global_pool=None):
        assert num_classes == 0

    def forward_features(self, x):
        return x

    def forward_head(self, x, pre_logits=True):
        size = x.shape[-1]
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        w = axis[None, :] + 1j * axis[:, None]
        parts = [x.mean((2, 3))]
        for k in range(1, FREQUENCIES + 1):
            kernel = w**k * (1j if k % 2 == 0 else 1)
            moment = (x * kernel).mean((2, 3)) * 4
            parts.append(torch.view_as_real(moment).flatten(1))
        return torch.cat(parts, 1) * self.scale


def isomorphic_backbone() -> TIBackbone:
    """The moment encoder with the representation that it obeys."""
    encoder = MomentEncoder()
    transformer = O2Representation(encoder.num_features, blocks=(0,) + (3,) * FREQUENCIES)
    with torch.no_grad():
        transformer.weight.copy_(torch.eye(encoder.num_features)[3:])
    return TIBackbone(encoder, transformer).eval()
