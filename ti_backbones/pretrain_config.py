"""What a pretraining is told: the options, their ranges, and which of them a resumed run may change."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import InputError, Rule, check_choices, check_options
from .objective import Objective

# everything else decides what the weights become
MAY_CHANGE = {
    *("out", "resume", "workers", "cache_gb", "lr"),
    *("log_every", "pictures_every", "checkpoint_every", "device"),
}


@dataclass
class PretrainConfig:
    """Pretrain a TI backbone on images; labels are not used."""

    out: Path
    """folder of the run: the model, and `training/` with checkpoint, log and pictures"""
    model: str = "resnet18"
    """any timm model, with or without `ti_`"""
    data: str = "embedded"
    """embedded, folder:PATH or shards:PATH-or-pattern"""
    test_data: str = ""
    """images of the certificate; embedded's test split, or a share kept out of training, if empty"""
    init: str = "random"
    """random, timm (timm's own pretrained weights), or a weights file or model folder"""
    preset: Literal["o2", "autoencoder", "paper"] = "o2"
    """where the objective starts from; its options follow below"""
    objective: Objective = field(default_factory=Objective)
    rank: int = 0
    """rank of the latent transformer; 0: min(256, D / 2) for o2, 128 for affine"""
    size: int = 96
    """side of the images, pixels, a multiple of 32"""
    grow: str = ""
    """smaller sides that the run begins with, each with its share of the steps, such as 64:0.5,96:0.3; `size` has the
    rest"""
    epochs: int = 100
    """passes over the images"""
    batch: int = 64
    """source images a step, over all processes"""
    accumulate: int = 1
    """parts that a step's batch is split into, to save memory; batch statistics are those of a part"""
    lr: float = 1.5e-3
    """highest learning rate"""
    encoder_lr: float = 1.0
    """the encoder's, as a share of lr: below 1 it stays nearer to what it starts from, see --init"""
    warmup: float = 0.1
    """share of the steps in which the learning rate rises; then it falls along a cosine"""
    weight_decay: float = 0.05
    """of AdamW; not on biases, norms and the latent transformer"""
    clip: float = 5.0
    """largest gradient norm"""
    drop_path: float = 0.0
    """stochastic depth of the encoder, where it has that"""
    ema: float = 0.0
    """decay of the exponential moving average of the weights; 0: none"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the device has units for it"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""
    workers: int = 2
    """processes that decode images"""
    cache_gb: float = 1.0
    """decoded images are kept in memory if they take no more than this, GiB"""
    seed: int = 0
    """of weights, order and augmentation"""
    log_every: int = 10
    """steps"""
    pictures_every: int = 500
    """steps; 0: only at the end"""
    checkpoint_every: int = 200
    """steps"""
    resume: bool = False
    """continue the run in `out`, or start it if there is none"""

    def check(self) -> None:
        """Raises InputError for a value out of range, naming it."""
        check_choices(self)
        check_choices(self.objective, "--objective.")
        rules: list[Rule] = [
            ("size", self.size >= 32 and self.size % 32 == 0, "a multiple of 32"),
            ("grow", self._grows(), f"rising multiples of 32 below {self.size}, with shares that leave some to it"),
            ("rank", self.rank >= 0, "0 or more"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 2, "at least 2"),
            ("accumulate", self.accumulate >= 1 and self.batch % self.accumulate == 0, "a divisor of the batch"),
            ("lr", 0 < self.lr < 1, "between 0 and 1"),
            ("encoder_lr", 0 < self.encoder_lr <= 1, "above 0, and at most 1"),
            ("warmup", 0 <= self.warmup < 1, "from 0 to below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("clip", self.clip > 0, "above 0"),
            ("drop_path", 0 <= self.drop_path < 1, "from 0 to below 1"),
            ("ema", 0 <= self.ema < 1, "from 0 to below 1"),
            ("workers", self.workers >= 0, "0 or more"),
            ("cache_gb", self.cache_gb >= 0, "0 or more"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to below 2^63"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("pictures_every", self.pictures_every >= 0, "0 or more"),
            ("checkpoint_every", self.checkpoint_every >= 1, "at least 1"),
        ]
        check_options(self, rules)
        weights = {k: v for k, v in asdict(self.objective).items() if not isinstance(v, str)}
        limits = {"colour": (1.0, "from 0 to 1"), "alone": (0.9, "from 0 to 0.9")}
        within = ((k, v, *limits.get(k, (1e6, "0 or more, and finite"))) for k, v in weights.items())
        check_options(self.objective, ((k, 0 <= v <= high, wanted) for k, v, high, wanted in within), "--objective.")
        rules = [("temperature", self.objective.temperature > 0, "above 0")]
        check_options(self.objective, rules, "--objective.")

    @property
    def sizes(self) -> dict[int, float]:
        """Side of the images -> the share of the run's steps at which it ends, in order."""
        ends, end = {}, 0.0
        for part in filter(None, self.grow.split(",")):
            side, _, share = part.partition(":")
            end += float(share)
            ends[int(side)] = end
        return ends | {self.size: 1.0}

    def _grows(self) -> bool:
        """Whether `grow` is what it should be."""
        try:
            sides, ends = list(self.sizes), list(self.sizes.values())
        except ValueError:
            return False
        parts = len([*filter(None, self.grow.split(","))])
        rising = sides == sorted(sides) and ends == sorted(ends) and len(set(ends)) == len(ends) == parts + 1
        return rising and ends[0] > 0 and all(side >= 32 and side % 32 == 0 for side in sides)

    def size_at(self, step: int, steps: int) -> int:
        """Side of the images in a step that counts from 0."""
        return next(side for side, end in self.sizes.items() if step < round(end * steps) or end == 1.0)

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must agree with, as plain JSON values."""
        values = {k: v for k, v in asdict(self).items() if k not in MAY_CHANGE}
        return json.loads(json.dumps(values, default=str))


def refuse_other_run(out: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Check that the run in a folder is the one that is to be resumed.

    Args:
        out: the run's folder, for the message.
        theirs, ours: fingerprints, of the folder's run and of this one.

    Raises:
        InputError: naming the first option that differs.
    """
    for key, mine in ours.items():
        its = theirs.get(key)
        if isinstance(mine, dict) and isinstance(its, dict) and mine != its:
            inner = next(k for k in {**mine, **its} if mine.get(k) != its.get(k))
            key, mine, its = f"{key}.{inner}", mine.get(inner), its.get(inner)
        if mine != its:
            raise InputError(
                f"'{out}' holds a run with {key} {its!r}, not {mine!r}:"
                " resume it with its own options, or give another --out"
            )
