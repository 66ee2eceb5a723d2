"""What a fine-tuning is told: the options, their ranges, and which of them a resumed run may change."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, Rule, check_options
from .recipe import Recipe

MAY_CHANGE = {"out", "resume", "workers", "cache_gb", "log_every", "checkpoint_every", "device", "mano"}


@dataclass
class FinetuneConfig:
    """Fine-tune a backbone to give root-relative 3D hand joints."""

    out: Path
    """folder of the run: the pose model, and `training/` with checkpoint and log"""
    model: str
    """a TI model folder, a published ti_* name, org/name of the Hub, or any timm model"""
    data: str = "embedded"
    """labelled images: embedded, shards:PATH-or-pattern, dexycb:PATH, interhand:PATH, freihand:PATH, ho3d:PATH"""
    val_data: str = ""
    """labelled images for validation, never test; if empty, other subjects or sequences of `data`, held out"""
    val_share: float = 0.1
    """share of `data` held out, where val-data is empty"""
    val_limit: int = 2048
    """validate on at most so many, drawn by seed"""
    init: str = "pretrained"
    """pretrained (the model's own weights), random, or a weights file or model folder for the encoder"""
    preset: Literal["default", "paper"] = "default"
    """where the recipe starts from; its options follow below"""
    recipe: Recipe = field(default_factory=Recipe)
    """how it is trained"""
    labels: float = 1.0
    """share of the training labels to use, or their number if above 1; subsets of one seed are nested"""
    output: Literal["joints", "mano"] = "joints"
    """root-relative joints, or axis-angles and shape of MANO, which needs its file"""
    mano: Path | None = None
    """your own MANO_RIGHT.pkl, or its folder; it is read as data and not copied"""
    size: int = 0
    """side of the images, pixels; 0: as the model was trained, else its configured size"""
    frame: Literal["as-trained", "disc", "crop", "full"] = "as-trained"
    """how images are framed for the encoder; models that do not say get full, the whole square, or disc if a latent
    transformer is to be fitted"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """of the encoder; auto: bf16 where the device has units for it"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""
    workers: int = 2
    """processes that decode images"""
    cache_gb: float = 2.0
    """decoded images are kept in memory if they take no more than this, GiB"""
    seed: int = 0
    """of weights, order, augmentation and held-out samples"""
    log_every: int = 10
    """steps"""
    checkpoint_every: int = 200
    """steps; a checkpoint is written at each validation too"""
    resume: bool = False
    """continue the run in `out`, or start it if there is none"""

    def check(self) -> None:
        """Raises InputError for a value out of range, naming it."""
        self.recipe.check()
        rules: list[Rule] = [
            ("val_share", 0 < self.val_share < 1, "between 0 and 1"),
            ("val_limit", self.val_limit >= 2, "at least 2"),
            ("labels", 0 < self.labels < math.inf, "above 0"),
            ("size", self.size >= 0, "0 or more"),
            ("workers", self.workers >= 0, "0 or more"),
            ("cache_gb", self.cache_gb >= 0, "0 or more"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to below 2^63"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("checkpoint_every", self.checkpoint_every >= 1, "at least 1"),
        ]
        check_options(self, rules)
        if self.output == "mano":
            if self.mano is None:
                raise InputError("--output mano needs --mano: the MANO_RIGHT.pkl of https://mano.is.tue.mpg.de")
            if self.recipe.flip:
                raise InputError("--recipe.flip does not go with --output mano: MANO_RIGHT is a right hand")
            if self.recipe.head_kind == "equivariant":
                raise InputError("--recipe.head equivariant gives joints, not MANO parameters: take --recipe.head mlp")

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must agree with, as plain JSON values."""
        values = {k: v for k, v in asdict(self).items() if k not in MAY_CHANGE}
        values["recipe"].pop("lr")  # may be lowered when a run goes on
        return json.loads(json.dumps(values, default=str))
