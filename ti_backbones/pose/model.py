"""PoseModel: an encoder and a pose head, what the images must look like, and the folder it is kept in.

A pose folder is a timm model folder (`config.json`, `model.safetensors`), with the latent transformer if there is one,
and beside these `pose_head.safetensors` and `pose.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .. import latent, o2
from ..backbone import (
    CONFIG_FILE,
    TRANSFORMER_FILE,
    create_encoder,
    encode,
    encoder_files,
    latent_width,
    load_strictly,
    read_config,
    read_weights,
    require_latent,
    serialise,
)
from ..checkpoint import write_files
from ..errors import InputError, first_line
from ..isomorphism import normalisation
from ..latent import LatentTransformer
from ..o2 import Element
from ..pretrain_setup import has_fixed_size
from . import heads
from .augment import Frame, place
from .heads import PoseHead, as_joints, said
from .mano import POSE, SHAPE, Mano

HEAD_FILE = "pose_head.safetensors"
POSE_FILE = "pose.json"
FORMAT = 2
Output = Literal["joints", "mano"]


@dataclass
class PoseSpec:
    """What a pose model is, besides its weights.

    Attributes:
        size: side of the images, pixels. frame: how they are framed, see `augment.Frame`.
        output: what the head gives: root-relative joints, or MANO's pose and shape.
        head: kind of the head. options: its options.
        mano_sha256: of the MANO file that it was trained with.
        record: how it was trained and validated.
    """

    size: int
    frame: Frame
    output: Output = "joints"
    head: str = "mlp"
    options: dict[str, Any] = field(default_factory=dict)
    mano_sha256: str = ""
    record: dict[str, Any] = field(default_factory=dict)


class PoseModel(nn.Module):
    """Root-relative joints of a right hand (or of a left one seen in a mirror) from its image.

    Args:
        encoder: a timm model. transformer: its latent transformer, if any. head: see `heads`.
        spec: what goes with them. mano: for the output "mano".
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        transformer: LatentTransformer | None,
        head: PoseHead,
        spec: PoseSpec,
        mano: Mano | None = None,
    ):
        super().__init__()
        self.encoder, self.transformer, self.head, self.spec, self.mano = encoder, transformer, head, spec, mano
        mean, std = normalisation(encoder)
        self.register_buffer("image_mean", mean, persistent=False)
        self.register_buffer("image_std", std, persistent=False)
        self.frozen = False

    def train(self, mode: bool = True) -> PoseModel:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        if self.transformer is not None:
            self.transformer.eval()  # it is not trained here
        return self

    def freeze(self, encoder: bool) -> None:
        """Keep the latent transformer as it is, and the encoder too if asked for."""
        self.frozen = encoder
        self.encoder.requires_grad_(not encoder)
        if self.transformer is not None:
            self.transformer.requires_grad_(False)
        self.train(self.training)

    def latents(self, views: Tensor) -> Tensor:
        """z (B, D) float32 of normalised, framed images (B, 3, S, S)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return encode(self.encoder, views.contiguous(memory_format=torch.channels_last))[0].float()

    def pose(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        """Root-relative joints (B, 21, 3) in mm of latents (B, D); side as in `forward`."""
        numbers = self.numbers(z, side)
        return as_joints(numbers) if self.mano is None else self.mano.relative_joints(numbers)

    def said(self, z: Tensor, side: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where the joints lie, and how the hand is bent: twice (B, 21, 3) in mm, see `heads`."""
        numbers = self.numbers(z, side)
        if self.mano is None:
            return said(numbers)
        joints = self.mano.relative_joints(numbers)
        return joints, joints

    def numbers(self, z: Tensor, side: Tensor | None = None) -> Tensor:
        """What the head gives, in float32."""
        side = torch.ones(len(z), device=z.device) if side is None else side
        with torch.autocast(z.device.type, enabled=False):
            return self.head(z.float(), side)

    def views(self, images: Tensor, g: Element | None = None) -> Tensor:
        """g·x of images x (B, 3, S, S) in [0, 1], or uint8, as the encoder wants them; x itself if g is None."""
        images = images.to(self.image_mean.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return place((images - self.image_mean) / self.image_std, g or o2.identity(len(images)), self.spec.frame)

    def forward(self, images: Tensor, side: Tensor | None = None) -> Tensor:
        """Root-relative joints (B, 21, 3) in mm.

        Args:
            images: (B, 3, S, S) in [0, 1], or uint8.
            side: (B,) of the hands as the images show them: 1 right, -1 left, 0 unknown; right if None.
        """
        return self.pose(self.latents(self.views(images)), side)

    def save(self, folder: Path) -> None:
        """Write the pose folder: all of its files, or none.

        Raises:
            InputError: if it cannot be written.
        """
        ours: dict[str, Any] = {}
        if self.transformer is not None:
            ours["latent_transformer"] = self.transformer.config()
        files = encoder_files(self.encoder, ours)
        if self.transformer is not None:
            files[TRANSFORMER_FILE] = serialise(self.transformer)
        files[HEAD_FILE] = serialise(self.head)
        spec = {"format": FORMAT, **asdict(self.spec)}
        files[POSE_FILE] = json.dumps(spec, indent=2).encode() + b"\n"
        write_files(folder, files)


def build_head(
    encoder: nn.Module, transformer: LatentTransformer | None, kind: str, output: Output, **options
) -> PoseHead:
    """A head that fits an encoder and an output.

    Raises:
        InputError: if it does not.
    """
    outputs = heads.POSE if output == "joints" else POSE + SHAPE
    return heads.make(kind, latent_width(encoder), transformer, outputs, **options)


def load_pose_model(folder: Path, mano: Path | None = None) -> PoseModel:
    """Read a pose folder.

    Args:
        mano: the user's MANO file, for a model whose output is MANO's.

    Raises:
        InputError: if there is none, it does not fit together, or the MANO file is missing or another one.
    """
    path = folder / POSE_FILE
    if not path.is_file():
        raise InputError(f"no pose model in '{folder}' (no {POSE_FILE}): give a folder that `finetune` wrote")
    try:
        values = json.loads(path.read_text())
        if values.pop("format") != FORMAT:
            raise ValueError("another version's format")
        spec = PoseSpec(**values)
        ours = read_config(folder).get("ti_backbones", {}).get("latent_transformer")
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"'{path}' does not describe a pose model ({first_line(e)}): fine-tune again") from e
    body = None
    if spec.output == "mano":
        if mano is None:
            raise InputError(f"pose model '{folder}' gives MANO parameters: add --mano MANO_RIGHT.pkl, your own copy")
        body = Mano(mano)
        if body.sha256 != spec.mano_sha256:
            raise InputError(f"MANO file '{mano}' is not the one that '{folder}' was trained with: give that one")
    encoder = open_encoder(f"local-dir:{folder}", True, spec.size)
    transformer = read_transformer(folder, ours, latent_width(encoder))
    try:
        head = build_head(encoder, transformer, spec.head, spec.output, **spec.options)
    except TypeError as e:
        raise InputError(f"'{path}' does not describe a pose head ({first_line(e)}): fine-tune again") from e
    load_strictly(head, read_weights(folder / HEAD_FILE), folder / HEAD_FILE)
    model = PoseModel(encoder, transformer, head, spec, body)
    model.freeze(encoder=False)
    return model.eval()


def read_transformer(folder: Path, config: dict[str, Any] | None, dim: int) -> LatentTransformer | None:
    """The latent transformer of a model folder; None if it has none.

    Raises:
        InputError: if it does not fit.
    """
    if config is None or not (folder / TRANSFORMER_FILE).is_file():
        return None
    options = dict(config)
    try:
        transformer = latent.make(options.pop("kind"), dim, **options)
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"'{folder / CONFIG_FILE}' does not describe the latent transformer ({first_line(e)}): save the model again"
        ) from e
    load_strictly(transformer, read_weights(folder / TRANSFORMER_FILE), folder / TRANSFORMER_FILE)
    return transformer.eval()


def open_encoder(name: str, pretrained: bool, size: int) -> nn.Module:
    """A timm encoder for images of a size, checked on one.

    Raises:
        InputError: for a model that is unknown, or does not run at the size.
    """
    architecture = name
    if name.startswith("local-dir:"):
        architecture = cast(str, read_config(Path(name.removeprefix("local-dir:")))["architecture"])
    options = {"img_size": size} if has_fixed_size(architecture) else {}
    encoder = create_encoder(name, pretrained=pretrained, **options)
    require_latent(encoder)
    encoder.eval()
    try:
        with torch.no_grad():
            z = encode(encoder, torch.zeros(1, 3, size, size))[0]
    except Exception as e:  # a model may fail in any way on a size it is not made for
        reason = first_line(e, 200)
        raise InputError(f"model '{name}' does not run at --size {size} ({reason}): give another size or model") from e
    if z.ndim != 2 or z.shape[1] != latent_width(encoder):
        raise InputError(f"model '{name}' gives no pooled latent (its shape is {tuple(z.shape)}): take another model")
    return encoder
