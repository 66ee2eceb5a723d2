"""A step of pose fine-tuning against a plain timm training step of the same model on ready tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import timm
import torch
from paired import Bar, Row, Settings, compare
from timm.optim import create_optimizer_v2
from torch import nn
from training import QUICK_MODEL, QUICK_SIZE

from ti_backbones.backbone import create_encoder
from ti_backbones.data import open_data
from ti_backbones.data.images import Selection
from ti_backbones.data.order import StepSampler
from ti_backbones.distributed import World
from ti_backbones.pose.data import InMemory, load
from ti_backbones.pose.model import PoseModel, PoseSpec, build_head
from ti_backbones.pose.recipe import Recipe
from ti_backbones.pose.training import Fit

BAR = Bar(at_most=1.05)


def finetune(settings: Settings) -> Iterator[Row]:
    """The default recipe, augmentation and the reading from memory included."""
    models, size = ((QUICK_MODEL,), QUICK_SIZE) if settings.quick else (("resnet18", "resnet50"), 128)
    recipe = Recipe(batch=4) if settings.quick else Recipe()
    hands = load(Selection(open_data("embedded"), np.arange(4 * recipe.batch)), size)
    for model in models:
        ours, theirs = _Ours(settings, model, hands, size, recipe), _Plain(settings, model, size, recipe)
        what = f"Fit, {model}, {size} px, batch {recipe.batch}, {settings.precision}"
        yield compare("finetune", what, "plain timm step on ready tensors", ours, theirs, settings, BAR)


class _Ours:
    """A step of `Fit` at each call."""

    def __init__(self, settings: Settings, model: str, hands: InMemory, size: int, recipe: Recipe):
        torch.manual_seed(0)
        encoder = create_encoder(model)
        head = build_head(encoder, None, recipe.head, "joints", dropout=recipe.dropout)
        pose = PoseModel(encoder, None, head, PoseSpec(size, "disc")).to(settings.device)
        pose.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.fit = Fit(pose, hands, hands, recipe, 0, settings.bf16, World(0, 1, settings.device))
        self.fit.calibrate()
        pose.train()
        self.batches = hands.batches(StepSampler(len(hands), self.fit.batch, 10**6, 0, 0))

    def __call__(self) -> None:
        self.fit._train_step(next(self.batches))
        self.fit.step += 1


class _Plain:
    """A training step as a timm user writes it, at each call."""

    def __init__(self, settings: Settings, model: str, size: int, recipe: Recipe):
        torch.manual_seed(0)
        self.settings, self.clip = settings, recipe.clip
        self.model = timm.create_model(model, num_classes=63).to(settings.device).train()
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimiser = create_optimizer_v2(self.model, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.x = torch.randn(recipe.batch, 3, size, size).to(settings.device, memory_format=torch.channels_last)
        self.target = torch.randn(recipe.batch, 63, device=settings.device)

    def __call__(self) -> None:
        with self.settings.autocast():
            prediction = self.model(self.x)
        nn.functional.l1_loss(prediction.float(), self.target).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
