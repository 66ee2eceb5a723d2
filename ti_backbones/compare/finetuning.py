"""One fine-tuning of a comparison: a linear probe, or the encoder and a head on a share of the labels, and its test."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..backbone import TIBackbone
from ..data.images import Samples, Selection
from ..kernels import for_training
from ..latent import O2Representation
from ..pose import metrics
from ..pose.augment import Frame
from ..pose.data import Hands, InMemory, drawn, label_subset, open_hands
from ..pose.model import PoseModel, PoseSpec, build_head
from ..pose.predictions import errors_over_rotation
from ..pose.probe import fit_probe
from ..pose.recipe import Recipe
from ..pose.start import fit_transformer, needs_transformer
from ..pose.training import Fit, predict, score, with_latents
from .config import VARIANTS, CompareConfig
from .pretraining import Machine

FRAME: Frame = "disc"  # as in pretraining
REFERENCE_HANDS = 2048  # training hands that the mean hand is one of


@dataclass(frozen=True)
class Sets:
    """The hands of a comparison.

    Attributes:
        samples: what `train` holds, to take shares of it. train: training hands.
        validation: everything is chosen on these. test: each fine-tuning sees them once, at its end.
        how: how validation and test were chosen.
    """

    samples: Samples
    train: Hands
    validation: InMemory
    test: InMemory
    how: str

    def labelled(self, share: float, seed: int, config: CompareConfig) -> Hands:
        """A share of the training hands; those of one seed are nested."""
        if share == 1:
            return self.train
        chosen = label_subset(len(self.train), share, seed)
        if isinstance(self.train, InMemory):
            return self.train.take(chosen)
        return open_hands(Selection(self.samples, chosen), config.size, config.cache_gb, config.workers)


def probe_recipe(recipe: Recipe) -> Recipe:
    """A linear map of latents that are computed once."""
    return replace(recipe, mode="linear", augment="none")


def variant_recipe(recipe: Recipe, variant: str) -> Recipe:
    """The recipe of a further row; of the plain one if `variant` is empty."""
    return replace(recipe, **VARIANTS[variant]) if variant else recipe


@dataclass(frozen=True)
class Tuned:
    """A model that was trained: on how many hands, in what steps, and its records on validation, the best one apart."""

    model: PoseModel
    hands: int
    steps: dict[str, Any]
    curve: list[dict[str, float]]
    best: dict[str, float]


def train(
    config: CompareConfig, folder: Path, recipe: Recipe, share: float, seed: int, sets: Sets, machine: Machine
) -> Tuned:
    """Fine-tune a pretrained model, or probe it; the weights that are best on validation are kept. See `run`."""
    hands, validation = sets.labelled(share, seed, config), sets.validation
    model = _model(config, folder, recipe, hands, seed, machine)
    views = len(hands) + len(validation)  # where each is encoded once
    if not recipe.uses_images:
        hands, validation = (with_latents(model, some, machine.bf16) for some in (hands, validation))
    if isinstance(hands, InMemory) and recipe == probe_recipe(recipe):
        curve = fit_probe(model, hands, validation)
        steps, best = {"views": views}, min(curve, key=score)
    else:
        fit = Fit(model, hands, validation, recipe, seed, machine.bf16).run()
        views = fit.steps * fit.batch if recipe.uses_images else views
        steps = {"epochs": fit.epochs, "steps": fit.steps, "views": views}
        curve, best = fit.curve, fit.best_record
    hands.tally.share()
    hands.tally.check()
    return Tuned(model, len(hands), steps, curve, best)


def run(
    config: CompareConfig, folder: Path, recipe: Recipe, share: float, seed: int, sets: Sets, machine: Machine
) -> dict[str, Any]:
    """Fine-tune a pretrained model and test the weights that are best on validation.

    Args:
        folder: the pretrained model. recipe: see `probe_recipe`, `variant_recipe`. share, seed: of the labels.

    Returns:
        plain JSON values: what was trained, the validation curve and its best record, the test errors.
    """
    began = time.perf_counter()
    tuned = train(config, folder, recipe, share, seed, sets, machine)
    model = tuned.model
    trained = time.perf_counter()
    test, valid = sets.test.tensors, sets.test.tensors["valid"]
    prediction = predict(model, sets.test, desc="testing")
    turned = errors_over_rotation(
        model, sets.test.take(list(range(len(test["image"])))[: config.angles_limit]), config.angles
    )
    return {
        "hands": tuned.hands,
        **tuned.steps,
        "trials": {"recipes": 1, "validations": len(tuned.curve)},
        "recipe": asdict(recipe),
        "head": model.head.kind,
        "curve": tuned.curve,
        "validation": tuned.best,
        "test": {
            "hands": len(prediction),
            "mpjpe": metrics.mpjpe(prediction, test["joints"], valid).mean().item(),
            "pa_mpjpe": metrics.pa_mpjpe(prediction, test["joints"], valid).mean().item(),
            "rotation": turned,
            "spread": {k: max(turned[k]) - min(turned[k]) for k in ("mpjpe", "pa_mpjpe")},
        },
        "seconds": {"training": trained - began, "testing": time.perf_counter() - trained},
    }


def reference(sets: Sets) -> dict[str, float]:
    """What poses that look at no image have on test: the mean of the training poses, and the mean training hand.

    The mean hand is that of the poses after each is turned onto it (generalised Procrustes analysis); it has no
    orientation, and so no MPJPE.

    Returns:
        "pose_mpjpe", "pose_pa_mpjpe" and "hand_pa_mpjpe", mm.
    """
    hands, test = drawn(sets.train, REFERENCE_HANDS), sets.test.tensors
    known = hands["valid"].all(1)
    poses = (hands["joints"] - hands["joints"][:, :1])[known].double()
    if not len(poses):
        return {}
    hand = poses[0]
    for _ in range(5):
        linear, mean, target = metrics.similarity(poses, hand.expand_as(poses))
        turn = linear / (torch.linalg.matrix_norm(linear)[:, None, None] / 3**0.5)  # large hands stay large
        hand = ((poses - mean) @ turn.mT + target).mean(0)
    constant = {"pose": poses.mean(0), "hand": hand}
    joints, valid = test["joints"].double(), test["valid"]
    found = {f"{k}_pa_mpjpe": metrics.pa_mpjpe(p.expand_as(joints), joints, valid).mean() for k, p in constant.items()}
    found["pose_mpjpe"] = metrics.mpjpe(constant["pose"].expand_as(joints), joints, valid).mean()
    return {k: v.item() for k, v in found.items()}


def _model(config: CompareConfig, folder: Path, recipe: Recipe, train: Hands, seed: int, machine: Machine) -> PoseModel:
    ti = TIBackbone.from_pretrained(folder).to(machine.device)
    torch.manual_seed(seed)
    transformer = None
    if needs_transformer(recipe):
        transformer = ti.latent_transformer
        if not isinstance(transformer, O2Representation):
            transformer = fit_transformer(ti.encoder, train, FRAME, machine.device)
        torch.manual_seed(seed)
    head = build_head(ti.encoder, transformer, recipe.head_kind, "joints", **recipe.head_options)
    spec = PoseSpec(config.size, FRAME, "joints", head.kind, head.options)
    model = for_training(PoseModel(ti.encoder, transformer, head, spec).to(machine.device))
    if not recipe.uses_images:
        model.freeze(encoder=True)
    return model
