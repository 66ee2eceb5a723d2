"""How a pose model is trained: the options, their ranges, and two presets.

``default`` is what works best here; ``paper`` is TI-Net's (arXiv 2502.12535) on DexYCB: no augmentation, constant
learning rate, its own head, L1 alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import Rule, check_choices, check_options

SAID_APART = ("articulated", "equivariant")  # heads that say apart how the hand is bent


@dataclass(frozen=True)
class Recipe:
    """How a pose model is trained."""

    mode: Literal["full", "frozen", "linear"] = "full"
    """what is trained: encoder and head, the head on a frozen encoder, or a linear head on a frozen encoder"""
    head: Literal["articulated", "equivariant", "mlp", "linear", "paper"] = "articulated"
    """pose head; articulated and equivariant say apart where the joints lie and how the hand is bent; equivariant needs
    (or gets, by a fit) a latent transformer of kind o2"""
    width: int = 0
    """width of the head's layers; 0: its own default"""
    dropout: float = 0.2
    """in the head, where it has that"""
    augment: Literal["image", "latent", "both", "none"] = "image"
    """where flips and rotations act in training: on images and joints, on latents and joints (T_g z, g·p), on images
    and then also on their latents, nowhere"""
    rotation: float = 180.0
    """rotate by up to so many degrees either way"""
    flip: bool = False
    """mirror half of the views; left hands are shown as right hands already, so a head need not know both"""
    latent_copies: int = 4
    """elements g for each latent, for augment latent and both"""
    zoom: float = 0.1
    """enlarge or reduce images by up to this share"""
    shift: float = 0.05
    """move images by up to this share of their side"""
    colour: float = 0.3
    """strength of changes of colour, contrast and exposure"""
    aligned: float = 1.0
    """weight of the L1 error after Procrustes alignment, beside that of the joints as they are; of heads that say apart
    how the hand is bent, the only error of what they say of it"""
    epochs: int = 60
    """passes over the training images"""
    min_steps: int = 1000
    """at least so many steps, with more epochs where images are few"""
    batch: int = 64
    """images a step, over all processes; a smaller training set is one batch"""
    lr: float = 1e-3
    """highest learning rate"""
    layer_decay: float = 0.9
    """the encoder's learning rate falls by this factor from each group of layers to the one before"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """after the warm-up"""
    warmup: float = 0.05
    """share of the steps in which the learning rate rises"""
    weight_decay: float = 0.05
    """of AdamW; not on biases and norms"""
    clip: float = 5.0
    """largest gradient norm"""

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.mode != "full"

    @property
    def head_kind(self) -> str:
        return "linear" if self.mode == "linear" else self.head

    @property
    def head_options(self) -> dict[str, Any]:
        """What the head is built with, where it has that."""
        if self.head_kind not in ("mlp", *SAID_APART):
            return {}
        return {"dropout": self.dropout} | ({"width": self.width} if self.width else {})

    @property
    def turns_images(self) -> bool:
        """Whether flips and rotations act on images."""
        return self.augment in ("image", "both")

    @property
    def turns_latents(self) -> bool:
        """Whether flips and rotations act on latents."""
        return self.augment in ("latent", "both")

    @property
    def uses_images(self) -> bool:
        """Whether every step needs the encoder; else latents are computed once."""
        return not self.frozen or self.turns_images

    def check(self, prefix: str = "--recipe.") -> None:
        """Raises InputError for a value out of range, naming it."""
        check_choices(self, prefix)
        rules: list[Rule] = [
            ("width", self.width >= 0, "0 or more"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("rotation", 0 <= self.rotation <= 180, "from 0 to 180"),
            ("latent_copies", self.latent_copies >= 1, "at least 1"),
            ("zoom", 0 <= self.zoom < 1, "from 0 to below 1"),
            ("shift", 0 <= self.shift <= 0.5, "from 0 to 0.5"),
            ("colour", 0 <= self.colour <= 1, "from 0 to 1"),
            ("aligned", 0 <= self.aligned < math.inf, "0 or more, and finite"),
            (
                "aligned",
                self.aligned > 0 or self.head_kind not in SAID_APART,
                f"above 0 for {' and '.join(SAID_APART)}",
            ),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("min_steps", self.min_steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("lr", 0 < self.lr < 1, "between 0 and 1"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1"),
            ("warmup", 0 <= self.warmup < 1, "from 0 to below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("clip", self.clip > 0, "above 0"),
        ]
        check_options(self, rules, prefix)


PRESETS: dict[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        head="paper",
        augment="none",
        rotation=0.0,
        zoom=0.0,
        shift=0.0,
        colour=0.0,
        aligned=0.0,
        epochs=120,
        min_steps=1,
        batch=128,
        lr=7.5e-4,
        layer_decay=1.0,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        clip=1e6,
    ),
}
