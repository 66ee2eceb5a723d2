"""`ti-backbones inspect`: the certificate of any model on any images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from . import isomorphism, o2
from .backbone import CONFIG_FILE, TRANSFORMER_FILE, TIBackbone, create_encoder, find_folder, read_config
from .checkpoint import write_atomically
from .data import load_all, open_data
from .errors import InputError
from .images import Frame
from .isomorphism import Certificate


@dataclass
class InspectConfig:
    """Certify a model on held-out images."""

    model: str
    """a TI model folder, a published ti_* name, or any timm model (a representation is then fitted)"""
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
    ti, training = _open(config)
    size = config.size or training.get("size") or ti.encoder.pretrained_cfg["input_size"][-1]
    frame: Frame = training.get("objective", {}).get("frame", "disc") if config.frame == "as-trained" else config.frame
    cuda = torch.cuda.is_available() if config.device == "auto" else config.device.startswith("cuda")
    ti = ti.to("cuda" if cuda else "cpu").eval()
    test = load_all(open_data(config.data, "test"), size, config.limit).images
    if not training.get("fitted", True):
        train = load_all(open_data(config.fit_data), size, config.limit).images
        mean, std = isomorphism.normalisation(ti.encoder)
        elements = o2.sample(12, torch.Generator().manual_seed(0))
        device = next(ti.parameters()).device
        latents = isomorphism.orbit_latents(
            ti, train, elements, frame, mean, std, desc="training latents", device=device
        )
        ti.latent_transformer = isomorphism.fit_representation(latents, elements)
    certificate = isomorphism.certify_backbone(ti, test, frame, config.data, config.angles)
    if config.json is not None:
        write_atomically(config.json, certificate.to_json().encode())
    if config.figure is not None:
        config.figure.parent.mkdir(parents=True, exist_ok=True)
        certificate.figure(config.figure)
    return certificate


def _open(config: InspectConfig) -> tuple[TIBackbone, dict]:
    """The model, and what is recorded of its training; `fitted` False asks for a fit."""
    path = Path(config.model)
    if path.is_dir() or config.model.startswith("ti_"):
        folder = find_folder(config.model)
        if (folder / TRANSFORMER_FILE).is_file():
            ti = TIBackbone.from_pretrained(folder)
            return ti, ti.metadata.get("training", {})
        read_config(folder)
        encoder = create_encoder(f"local-dir:{folder}", pretrained=True)
    elif path.exists():
        raise InputError(f"model '{config.model}' is a file: give the folder that holds it and {CONFIG_FILE}")
    else:
        encoder = create_encoder(config.model, pretrained=config.pretrained)
    return TIBackbone(encoder), {"fitted": False}
