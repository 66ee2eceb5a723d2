"""What a comparison is told: the options, their ranges, and which of them decide its numbers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, Rule, check_options
from ..pose.recipe import Recipe
from ..pretrain_config import PretrainConfig
from .methods import METHODS, START

# these add cells to a comparison, or only say how it is computed; everything else decides what its cells hold
MAY_CHANGE = {
    *("out", "methods", "given", "own_head", "labels", "seeds", "label_seeds"),
    *("pretraining_seeds", "best", "best_seeds"),
    *("device", "workers", "cache_gb", "checkpoint_minutes"),
}
ALL = "scratch,autoencoder,autoencoder-pooled,simclr,peclr,ti-paper,ti-o2"
VARIANTS: dict[str, dict[str, Any]] = {
    "articulated": {"head": "articulated"},
    "equivariant": {"head": "equivariant", "augment": "both"},
    "latent": {"augment": "latent"},
}
"""the further rows of a method of `own_head`, and what they change of the recipe"""


@dataclass
class CompareConfig:
    """Compare pretrainings: same encoder, images, number of encoder views and fine-tuning. Run it again to go on."""

    out: Path
    """folder of the comparison: cells/, pretrained/, report.json, table.md, figures"""
    budget_views: int = 0
    """images that the encoder sees in each pretraining, counting every view"""
    data: str = "embedded"
    """labelled images; pretraining does not look at the labels"""
    test_data: str = ""
    """labelled images for test; if empty, embedded's test split, or other subjects of `data`, held out"""
    methods: str = ALL
    """what to compare, by comma; `--init` adds the row start"""
    given: str = ""
    """model folders or published ti_* names that are fine-tuned beside these, by comma, such as ours=runs/a,theirs=b"""
    own_head: str = "ti-o2"
    """methods among these that are fine-tuned also with other heads, by comma: the articulated one, the equivariant one
    (on images and latents that turn), and with latent augmentation in the place of the images'; name:articulated,
    name:equivariant or name:latent for one of these. A method without a latent transformer of kind o2 gets a fitted
    one"""
    model: str = "resnet18"
    """any timm model"""
    init: str = "random"
    """what every pretraining starts from: random, timm (timm's own weights), or a weights file or model folder"""
    size: int = 96
    """side of the images, pixels, a multiple of 32"""
    batch_views: int = 112
    """encoder views in a pretraining step, the same for every method: a multiple of 14 with ti-paper"""
    lrs: str = "5e-4,1.5e-3"
    """highest learning rates of a pretraining that every method tries, by comma; of several, each method takes the one
    with which a linear probe is best on validation after a short pretraining"""
    trial_views: int = 20_000
    """encoder views of each of these trials"""
    labels: str = "0.01,0.1,1"
    """shares of the training labels to fine-tune on, by comma; if empty, linear probes alone"""
    seeds: int = 3
    """fine-tunings of each share, each with labels drawn anew"""
    label_seeds: str = ""
    """fine-tunings of each share in the order of `labels`, by comma, such as 1,3,1; if empty, `seeds` each"""
    pretraining_seeds: int = 1
    """pretrainings of each method"""
    best: int = 0
    """so many pretrained methods, best by validation with their best head, are pretrained with `best_seeds` seeds"""
    best_seeds: int = 2
    """see `best`"""
    preset: Literal["default", "paper"] = "default"
    """where the recipe of fine-tuning starts from; its options follow below"""
    recipe: Recipe = field(default_factory=Recipe)
    """how every pretraining is fine-tuned"""
    val_share: float = 0.1
    """share of `data` held out for validation, in whole subjects or sequences where it says them"""
    val_limit: int = 512
    """validate on at most so many"""
    test_limit: int = 0
    """test on the first so many; 0: all"""
    angles: int = 8
    """in-plane rotations of the test images over which the error's spread is measured"""
    angles_limit: int = 256
    """on the first so many test images"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """of the encoder in training; auto: bf16 where the device has units for it. Tests are computed in fp32"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""
    workers: int = 2
    """processes that decode images"""
    cache_gb: float = 2.0
    """decoded images are kept in memory if they take no more than this, GiB"""
    checkpoint_minutes: float = 2.0
    """between checkpoints of a pretraining"""

    def check(self) -> None:
        """Raises InputError for a value out of range, naming it."""
        self.recipe.check()
        self.pretraining("ti-o2", 0).check()
        known = ", ".join(m for m in METHODS if m != START)
        for option, names in (("methods", by_comma(self.methods)), ("own-head", list(self.variants))):
            for name in names:
                if name not in {*METHODS, *self.given_models} or (name == START and option == "methods"):
                    raise InputError(f"--{option} has the unknown method '{name}': it must be of {known}")
        if not by_comma(self.methods):
            raise InputError(f"--methods names none: it must be of {known}")
        trains = any(METHODS[m].views for m in self.method_names)
        step = math.lcm(*(METHODS[m].views or 1 for m in self.method_names))
        rules: list[Rule] = [
            (
                "batch_views",
                self.batch_views >= 2 * step and self.batch_views % step == 0,
                f"a multiple of {step}, at least {2 * step}",
            ),
            (
                "budget_views",
                self.budget_views >= self.batch_views or not trains,
                f"at least one step, {self.batch_views} views",
            ),
            ("trial_views", self.trial_views >= self.batch_views, f"at least one step, {self.batch_views} views"),
            ("seeds", self.seeds >= 1, "at least 1"),
            ("pretraining_seeds", self.pretraining_seeds >= 1, "at least 1"),
            ("best", self.best >= 0, "0 or more"),
            ("best_seeds", self.best_seeds >= 1, "at least 1"),
            ("val_share", 0 < self.val_share < 1, "between 0 and 1"),
            ("val_limit", self.val_limit >= 2, "at least 2"),
            ("test_limit", self.test_limit >= 0, "0 or more"),
            ("angles", self.angles >= 2, "at least 2"),
            ("angles_limit", self.angles_limit >= 1, "at least 1"),
            ("workers", self.workers >= 0, "0 or more"),
            ("cache_gb", self.cache_gb >= 0, "0 or more"),
            ("checkpoint_minutes", self.checkpoint_minutes > 0, "above 0"),
        ]
        check_options(self, rules)
        _ = self.shares, self.learning_rates  # say what is wrong with them

    @property
    def method_names(self) -> list[str]:
        """The methods, each once, in order; the start first among them if there is one."""
        chosen = list(dict.fromkeys(by_comma(self.methods)))
        return [START, *chosen] if self.init != "random" else chosen

    @property
    def given_models(self) -> dict[str, str]:
        """Row's name -> model, of those that are given.

        Raises:
            InputError: for a name that cannot be, or no model.
        """
        given: dict[str, str] = {}
        for part in by_comma(self.given):
            name, _, model = part.partition("=")
            if not re.fullmatch(r"[\w.-]+", name) or not model or name in {*METHODS, *given}:
                raise InputError(f"--given has '{part}': it must be name=folder, with a name that no other row has")
            given[name] = model
        return given

    @property
    def variants(self) -> dict[str, list[str]]:
        """Method -> its further rows.

        Raises:
            InputError: for a row that there is not.
        """
        chosen: dict[str, list[str]] = {}
        for part in by_comma(self.own_head):
            name, colon, variant = part.partition(":")
            if colon and variant not in VARIANTS:
                raise InputError(f"--own-head has '{part}': after the colon comes one of {', '.join(VARIANTS)}")
            chosen.setdefault(name, []).extend([variant] if colon else VARIANTS)
        return chosen

    @property
    def shares(self) -> dict[float, int]:
        """Share of the labels -> how many fine-tunings.

        Raises:
            InputError: for shares or numbers that cannot be.
        """
        try:
            shares = [float(s) for s in by_comma(self.labels)]
            seeds = [int(s) for s in by_comma(self.label_seeds)] or [self.seeds] * len(shares)
        except ValueError as e:
            raise InputError(
                f"--labels is '{self.labels}' and --label-seeds '{self.label_seeds}': they must be numbers, by comma"
            ) from e
        if not all(0 < s <= 1 for s in shares):
            raise InputError(f"--labels is '{self.labels}': shares must be above 0 and at most 1")
        if len(seeds) != len(shares) or min(seeds, default=1) < 1:
            raise InputError(f"--label-seeds is '{self.label_seeds}': it must be a number above 0 for each of --labels")
        return dict(zip(shares, seeds, strict=True))

    @property
    def learning_rates(self) -> list[float]:
        """Those to try.

        Raises:
            InputError: for what is no learning rate.
        """
        try:
            rates = [float(s) for s in by_comma(self.lrs)]
        except ValueError:
            rates = []
        if not rates or not all(0 < rate < 1 for rate in rates):
            raise InputError(f"--lrs is '{self.lrs}': it must be numbers between 0 and 1, by comma")
        return list(dict.fromkeys(rates))

    @property
    def steps(self) -> int:
        """Steps of every pretraining."""
        return self.budget_views // self.batch_views

    def pretraining(self, method: str, seed: int, lr: float | None = None) -> PretrainConfig:
        """The configuration of a method's pretraining, from which its encoder and optimiser are built."""
        views = METHODS[method].views
        return PretrainConfig(
            out=self.out / "pretrained" / f"{method}-{seed}",
            model=self.model,
            init="random" if method == "scratch" else self.init,
            objective=METHODS[method].objective,
            size=self.size,
            batch=max(self.batch_views // (views or 2), 2),
            lr=self.learning_rates[0] if lr is None else lr,
            seed=seed,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What another call on the same folder must agree with, as plain JSON values."""
        values = {k: v for k, v in asdict(self).items() if k not in MAY_CHANGE}
        return json.loads(json.dumps(values, default=str))


def by_comma(text: str) -> list[str]:
    """The parts of an option that holds several."""
    return [part.strip() for part in text.split(",") if part.strip()]
