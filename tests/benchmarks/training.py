"""What a pretraining step takes: against the authors' scheme, and against its encoder alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from authors import AuthorsStep
from paired import Bar, Row, Settings, compare, measure
from timm.optim import param_groups_weight_decay
from torch import Tensor

from ti_backbones.backbone import create_encoder
from ti_backbones.data import LoadedImages
from ti_backbones.data.order import uniforms
from ti_backbones.distributed import World
from ti_backbones.kernels import for_training
from ti_backbones.objective import PRESETS, UNIFORMS
from ti_backbones.pretrain import PretrainConfig, _Run

DEPTHWISE, MODELS, SIZES = "efficientnet_lite0", ("resnet50", "resnet18"), (128, 224)
QUICK_MODEL, QUICK_SIZE = "test_resnet", 64
PAPER, BEST = Bar(at_least=12), Bar(at_least=25)
STEP = {"resnet50": Bar(at_most=1.15), "resnet18": Bar(at_most=1.25)}
SOURCE_IMAGES = {128: 16, 224: 6, QUICK_SIZE: 4}
"""in a step against the authors' scheme, by image size: fourteen views of each in fp32 must fit in 20 GiB"""
STEP_IMAGES = 32  # in a step against the encoder: more source images than that change the ratio little


class Pretraining:
    """The package's own pretraining, a whole step at each call, on a batch in memory.

    Args:
        data: a data spec; the first `batch` images of `Settings.images`, again and again, if empty.
        objective: options of the objective, beside the preset's. options: others of `PretrainConfig`.

    Attributes:
        run: what the command runs. images: (B, 3, S, S) uint8.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        size: int,
        batch: int,
        preset: Any = "o2",
        data: str = "",
        objective: dict[str, Any] | None = None,
        epochs: int = 10**6,
        **options: Any,
    ):
        config = PretrainConfig(
            out=settings.folder / "unwritten",
            model=model,
            data=data or f"folder:{settings.images}",
            objective=replace(PRESETS[preset], **objective or {}),
            preset=preset,
            size=size,
            batch=batch,
            device=str(settings.device),
            epochs=epochs,
            **options,
        )
        config.check()
        self.run = _Run(config, World(0, 1, settings.device))
        self.run.objective.train()
        self.images = cast(LoadedImages, self.run.data.images).images[:batch]

    def __call__(self) -> None:
        self.step(self.images)

    def step(self, images: Tensor) -> dict[str, float]:
        """A step on images (B, 3, S, S) uint8; the loss's terms."""
        terms = self.run._train_step(images)
        self.run.step += 1
        return terms

    def views(self) -> Tensor:
        """The views of a step, as the encoder takes them."""
        objective, u = self.run.objective, uniforms(0, 0, len(self.images), UNIFORMS)
        images = self.images.to(self.run.world.device).float() / 255
        return torch.cat(objective.views(images, u)[1]).contiguous(memory_format=torch.channels_last)


class EncoderStep:
    """Forward, backward and AdamW of a plain timm encoder, at each call, on ready views."""

    def __init__(self, settings: Settings, model: str, views: Tensor, quick_gradients: bool = False):
        torch.manual_seed(0)
        self.settings, self.views = settings, views
        self.encoder = create_encoder(model).to(settings.device).train()
        self.encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if quick_gradients:
            for_training(self.encoder)
        self.optimiser = torch.optim.AdamW(param_groups_weight_decay(self.encoder, 0.05), lr=1e-4, betas=(0.9, 0.95))

    def __call__(self) -> None:
        with self.settings.autocast():
            z = self.encoder(self.views)
        z.float().square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def cases(settings: Settings) -> Iterator[tuple[str, int, int]]:
    """(model, size, source images)."""
    for model in (QUICK_MODEL,) if settings.quick else MODELS:
        for size in (QUICK_SIZE,) if settings.quick else SIZES:
            yield model, size, SOURCE_IMAGES[size]


def _against_authors(name: str, settings: Settings, bf16: bool, bar: Bar | None) -> Iterator[Row]:
    for model, size, count in cases(settings):
        ours = Pretraining(settings, model, size, count)
        theirs = AuthorsStep(settings, model, ours.images, bf16)
        what = f"o2 step, {model}, {size} px, {count} images, {settings.precision}"
        a, b = measure([ours, theirs], settings, f"{name}: {what}")
        rates = [count / s for s in a], [count / s for s in b]
        against = f"authors' scheme, same images, {'bf16' if bf16 else 'fp32'}"
        yield Row(name, what, against, "images/s", *rates, bar)


def paper(settings: Settings) -> Iterator[Row]:
    """Source images a second, against the authors' scheme in the same precision."""
    return _against_authors("paper", settings, settings.bf16, PAPER)


def paper_best(settings: Settings) -> Iterator[Row]:
    """The same against the authors' scheme in fp32; asked for on a CPU with bf16 units."""
    bar = BEST if settings.bf16 and settings.device.type == "cpu" else None
    return _against_authors("paper-best", settings, False, bar)


def depthwise(settings: Settings) -> Iterator[Row]:
    """A plain timm encoder of depthwise convolutions as `for_training` lays it out, against itself."""
    model, count = ("test_efficientnet", 4) if settings.quick else (DEPTHWISE, 2 * STEP_IMAGES)
    for size in (QUICK_SIZE,) if settings.quick else SIZES:
        views = torch.rand(count, 3, size, size, device=settings.device).contiguous(memory_format=torch.channels_last)
        ours, theirs = (EncoderStep(settings, model, views, quick) for quick in (True, False))
        what = f"forward, backward, AdamW of {model}, {size} px, {count} views, {settings.precision}"
        yield compare("depthwise", what, "plain timm model in channels last", ours, theirs, settings, Bar(below=1))


def step(settings: Settings) -> Iterator[Row]:
    """An o2 step, against the encoder alone on the same views."""
    for model, size, count in cases(settings):
        ours = Pretraining(settings, model, size, STEP_IMAGES if not settings.quick else count)
        theirs = EncoderStep(settings, model, ours.views())
        what = f"o2 step, {model}, {size} px, {len(ours.images)} images, {settings.precision}"
        against = "encoder forward, backward, AdamW on its views"
        yield compare("step", what, against, ours, theirs, settings, STEP.get(model))
