"""`ti-backbones inspect`: the certificate of any model on any images."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import torch

from . import isomorphism
from .backbone import TRANSFORMER_FILE, TIBackbone, create_encoder, folder_of, read_config
from .checkpoint import replacing, write_atomically
from .data import load_all, open_data
from .distributed import find_device
from .errors import InputError, first_line
from .images import Frame
from .isomorphism import Certificate
from .pretrain_setup import has_fixed_size

FIGURES = (".png", ".pdf", ".svg")


@dataclass
class InspectConfig:
    """Certify a model on held-out images."""

    model: str
    """a TI model folder, a published ti_* name, org/name of the Hub, or any timm model (a representation is fitted)"""
    data: str = "embedded?split=test"
    """images to certify on: embedded, folder:PATH or shards:PATH-or-pattern"""
    fit_data: str = "embedded"
    """images that a representation is fitted on, for a model without latent transformer"""
    size: int = 0
    """side of the images, pixels; 0: as the model was trained, else its configured size"""
    frame: Literal["as-trained", "disc", "crop"] = "as-trained"
    """how views are framed"""
    angles: int = 24
    """rotations, equally spaced, each with and without flip"""
    limit: int = 512
    """at most so many images"""
    json: Path | None = None
    """write the certificate here"""
    figure: Path | None = None
    """draw the error by angle to this image file (extra [train])"""
    pretrained: bool = True
    """for a timm name: take its pretrained weights"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""


def inspect(config: InspectConfig) -> Certificate:
    """Certify a model and write what was asked for.

    Raises:
        InputError: for a model, data or option that cannot be used.
    """
    for name in ("angles", "limit"):
        if getattr(config, name) < 2:
            raise InputError(f"--{name} is {getattr(config, name)}: it must be at least 2")
    if config.size < 0:
        raise InputError(f"--size is {config.size}: it must be 0 or more")
    if config.figure is not None:
        if config.figure.suffix not in FIGURES:
            raise InputError(f"--figure is '{config.figure}': it must end in {', '.join(FIGURES)}")
        import_module("matplotlib")  # now, not after minutes of work
    device = find_device(config.device)
    ti, training = _open(config)
    cfg = cast(dict[str, Any], ti.encoder.pretrained_cfg)
    size: int = config.size or training.get("size") or cfg["input_size"][-1]
    frame: Frame = training.get("objective", {}).get("frame", "disc") if config.frame == "as-trained" else config.frame
    ti = ti.to(device).eval()
    test = load_all(open_data(config.data, "test"), size, config.limit).images
    _try(ti, config.model, size)
    if not training.get("fitted", True):
        train = load_all(open_data(config.fit_data), size, config.limit).images
        ti.latent_transformer = isomorphism.represent(ti.encoder, train, frame, device)
    certificate = isomorphism.certify_backbone(ti, test, frame, config.data, config.angles)
    if config.json is not None:
        write_atomically(config.json, certificate.to_json().encode())
    if config.figure is not None:
        with replacing(config.figure) as [figure]:
            certificate.figure(figure)
    return certificate


def _open(config: InspectConfig) -> tuple[TIBackbone, dict]:
    """The model, and what is recorded of its training; `fitted` False asks for a fit."""
    folder = folder_of(config.model)
    if folder is not None:
        if (folder / TRANSFORMER_FILE).is_file():
            ti = TIBackbone.from_pretrained(folder)
            return ti, ti.metadata.get("training", {})
        read_config(folder)
        encoder = create_encoder(f"local-dir:{folder}", pretrained=True)
    else:
        options = {"img_size": config.size} if config.size and has_fixed_size(config.model) else {}
        encoder = create_encoder(config.model, pretrained=config.pretrained, **options)
    return TIBackbone(encoder), {"fitted": False}


@torch.no_grad()
def _try(ti: TIBackbone, name: str, size: int) -> None:
    """One image of this size, or a clear error."""
    try:
        ti(torch.zeros(1, 3, size, size, device=next(ti.parameters()).device))
    except Exception as e:  # a model may fail in any way on a size it is not made for
        reason = first_line(e, 200)
        raise InputError(f"model '{name}' does not run at --size {size} ({reason}): give another size") from e
