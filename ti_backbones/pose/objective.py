"""What a pose model's training minimises, and the model and its loss on a batch as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import metrics
from .augment import UNIFORMS, augment_images, augment_latents
from .data import Batch
from .heads import UNIT_MM
from .model import PoseModel
from .recipe import Recipe

LARGEST_SCALE = 10.0  # that the aligned loss enlarges a prediction by: at first it may be a point


def pose_loss(joints: Tensor, articulation: Tensor, target: Tensor, valid: Tensor, aligned: float) -> dict[str, Tensor]:
    """Mean absolute errors of the coordinates, in units of `UNIT_MM`: of root-relative joints as they are, and of the
    articulation after alignment.

    The best similarity is taken as given: no gradient flows through its rotation and scale. Every hand weighs the same.

    Args:
        joints, articulation, target: (B, J, 3) root-relative, mm; see `heads`. valid: (B, J).
        aligned: weight of the second term, which is not computed if it is 0.

    Returns:
        scalars "loss", "l1", and "aligned_l1" if it has a weight.
    """

    def mean(points: Tensor) -> Tensor:
        error = torch.where(valid[..., None], points - target, 0).abs().sum((1, 2))
        return (error / (3 * valid.sum(1)).clamp(min=1)).mean() / UNIT_MM

    terms = {"l1": mean(joints)}
    loss = terms["l1"]
    if aligned:
        with torch.no_grad():
            finite = articulation.nan_to_num(0, 0, 0)  # one that is not shows in the term
            linear, _, q_mean = metrics.similarity(finite, target, valid)
            scale = torch.linalg.matrix_norm(linear)[:, None, None] / 3**0.5
            linear = linear * (scale.clamp(max=LARGEST_SCALE) / scale.clamp(min=1e-12))
        weight = valid[..., None].to(articulation)
        p_mean = (articulation * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        terms["aligned_l1"] = mean((articulation - p_mean) @ linear.mT + q_mean)
        loss = loss + aligned * terms["aligned_l1"]
    return {"loss": loss, **terms}


class Objective(nn.Module):
    """A pose model and its loss on a batch, as one module that DistributedDataParallel can wrap."""

    def __init__(self, model: PoseModel, recipe: Recipe, bf16: bool):
        super().__init__()
        self.model, self.recipe, self.bf16 = model, recipe, bf16

    def forward(self, batch: Batch, u: Tensor) -> dict[str, Tensor]:
        """The loss and its terms; u (B, `numbers(recipe)`) uniform numbers decide everything random."""
        (z, joints, side), valid, transformer = self.encode(batch, u), batch["valid"], self.model.transformer
        if self.recipe.turns_latents and transformer is not None:
            u = u[:, UNIFORMS:].unflatten(1, (-1, 2)).transpose(0, 1).flatten(0, 1)
            z, joints, side = augment_latents(z, joints, side, u, self.recipe, transformer)
            valid = valid.repeat(self.recipe.latent_copies, 1)
        return pose_loss(*self.model.said(z, side), joints, valid, self.recipe.aligned)

    def encode(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of a batch's augmented images, with their root-relative joints and sides."""
        joints, side = batch["joints"] - batch["joints"][:, :1], batch["side"]
        if "latent" in batch:
            return batch["latent"], joints, side
        model, images = self.model, batch["image"].float().div_(255)
        mean, std = model.image_mean, model.image_std
        views, joints, side = augment_images(images, joints, side, u, self.recipe, model.spec.frame, mean, std)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return model.latents(views), joints, side


def numbers(recipe: Recipe) -> int:
    """How many uniform numbers decide everything random about one hand in a step."""
    return UNIFORMS + 2 * recipe.latent_copies
