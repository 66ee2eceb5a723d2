"""The linear probe: the least-squares map from latents to joints, in closed form.

A probe that is trained by steps sees the large directions of a latent first, and ranks spectra rather than what they
say; this one sees all of them.
"""

from __future__ import annotations

import torch

from ..errors import InputError
from . import metrics
from .data import InMemory
from .head_parts import UNIT_MM
from .heads import LinearHead
from .model import PoseModel
from .training import predict, score

PENALTIES = [10.0**k for k in range(-6, 2)]  # on the squared weights, beside the mean squared error


@torch.no_grad()
def fit_probe(model: PoseModel, train: InMemory, validation: InMemory) -> list[dict[str, float]]:
    """Set the weights of a linear head by ridge regression of root-relative joints on standardised latents.

    Args:
        model: has a `LinearHead`. train, validation: hands with latents; the penalty that is kept is the best on
            validation.

    Returns:
        for each penalty "penalty", and "mpjpe" and "pa_mpjpe" on validation, mm.

    Raises:
        InputError: if no training hand has all of its joints.
    """
    head, hands = model.head, train.tensors
    assert isinstance(head, LinearHead)
    whole = hands["valid"].all(1)
    if not whole.any():
        raise InputError("no training hand has all joints labelled, which a linear probe needs: give other data")
    z, joints = hands["latent"][whole], hands["joints"][whole].double()
    y = (joints - joints[:, :1])[:, 1:].flatten(1) / UNIT_MM
    device = head.out.weight.device
    head.calibrate(z.to(device))
    x = head.standardise(z.to(device)).cpu().double()
    mean = y.mean(0)
    values, vectors = torch.linalg.eigh(x.mT @ x / len(x))
    along = vectors.mT @ (x.mT @ (y - mean) / len(x))
    records, best = [], None
    for penalty in PENALTIES:
        weight = vectors @ (along / (values.clamp(min=0) + penalty)[:, None])
        head.out.weight.copy_(weight.mT)
        head.out.bias.copy_(mean)
        prediction, of = predict(model, validation), validation.tensors
        errors = {"mpjpe": metrics.mpjpe, "pa_mpjpe": metrics.pa_mpjpe}
        found = {key: error(prediction, of["joints"], of["valid"]).mean().item() for key, error in errors.items()}
        records.append({"penalty": penalty, **found})
        if best is None or score(found) < score(best[0]):
            best = found, head.out.weight.clone()
    assert best is not None
    head.out.weight.copy_(best[1])
    return records
