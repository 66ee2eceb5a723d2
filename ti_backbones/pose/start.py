"""What a fine-tuning starts from: an encoder with its weights, and its latent transformer, published or fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

from .. import isomorphism
from ..backbone import (
    TRANSFORMER_FILE,
    folder_of,
    latent_width,
    load_strictly,
    read_config,
    read_weights,
    weights_of,
)
from ..errors import InputError
from ..images import Frame as ViewFrame
from ..latent import LatentTransformer
from ..pretrain_setup import without_classifier
from .augment import Frame
from .data import Hands, drawn
from .finetune_config import FinetuneConfig
from .model import open_encoder, read_transformer
from .recipe import Recipe

FITTED_ON = 512  # images that a latent transformer is fitted on, for a model that has none


def start_from(config: FinetuneConfig) -> tuple[nn.Module, LatentTransformer | None, dict[str, Any]]:
    """The encoder to start from, its latent transformer, and `size` and `frame` to train with.

    Raises:
        InputError: for a model or weights that cannot be found or do not fit.
    """
    random = config.init == "random"
    is_name = config.model.startswith("ti_") and not Path(config.model).is_dir()
    folder = None if is_name and config.init != "pretrained" else folder_of(config.model)
    ours: dict[str, Any] = {}
    name = config.model
    if folder is not None:
        described = read_config(folder)
        ours = described.get("ti_backbones") or {}
        name = f"local-dir:{folder}" if not random else described["architecture"]
    training = dict(ours.get("training") or {})
    frame = training.get("objective", {}).get("frame") or ("disc" if needs_transformer(config.recipe) else "full")
    frame = frame if config.frame == "as-trained" else config.frame
    size = config.size or training.get("size") or _configured_size(name)
    encoder = open_encoder(name, config.init == "pretrained", size)
    if config.init not in ("pretrained", "random"):
        weights = weights_of(config.init)
        if weights is None:
            raise InputError(f"--init is '{config.init}': it must be pretrained, random, or weights that exist")
        load_strictly(encoder, without_classifier(read_weights(weights), encoder), weights)
        folder = weights.parent if (weights.parent / TRANSFORMER_FILE).is_file() else None
        ours = (read_config(folder).get("ti_backbones") or {}) if folder else {}
    transformer = None
    if folder is not None and not random:
        transformer = read_transformer(folder, ours.get("latent_transformer"), latent_width(encoder))
    return encoder, transformer, {"size": size, "frame": frame}


def _configured_size(name: str) -> int:
    if name.startswith("local-dir:"):
        return int(read_config(Path(name.removeprefix("local-dir:")))["pretrained_cfg"]["input_size"][-1])
    if ":" in name or not timm.is_model(name):
        return 224
    found = timm.get_pretrained_cfg(timm.models.get_arch_name(name).removeprefix("ti_"))
    return int(found.input_size[-1]) if found else 224


def needs_transformer(recipe: Recipe) -> bool:
    return recipe.head_kind == "equivariant" or recipe.turns_latents


def fit_transformer(encoder: nn.Module, train: Hands, frame: Frame, device: torch.device) -> LatentTransformer:
    """A representation fitted to the latents of an encoder that was trained without one."""
    images = drawn(train, FITTED_ON)["image"]
    return isomorphism.represent(encoder, images, cast(ViewFrame, "disc" if frame == "full" else frame), device)
