"""`ti-backbones compare`: every method under one budget, cell by cell.

A cell is one pretraining with its certificate, one linear probe, or one fine-tuning with its test; each is a JSON in
`cells/`, written whole when it is done. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from filelock import FileLock
from tqdm import tqdm

from .. import checkpoint, isomorphism
from ..backbone import TIBackbone, find_folder, read_config
from ..data import open_data
from ..data.images import Samples, Selection
from ..data.order import generator
from ..distributed import fast_bf16, find_device
from ..download import sha256
from ..errors import InputError
from ..pose.data import label_subset, load, open_hands, split_validation
from ..pose.training import score
from ..pretrain_config import refuse_other_run
from ..pretrain_setup import HELD_OUT, TEST_IMAGES
from ..published import WEIGHTS_FILE
from . import finetuning
from .config import CompareConfig
from .finetuning import Sets
from .methods import METHODS
from .pretraining import Diverged, Machine, Pretraining, saved_model, trained_module
from .report import Report, write_report

__all__ = ["CompareConfig", "compare"]

Cell = dict[str, Any]
TRIAL_HANDS = 2048  # training hands of the linear probe that decides between learning rates
SPLIT_SEED = 0  # of validation and test samples: the same whatever else is asked for


def compare(config: CompareConfig) -> Report:
    """Run, or go on with, a comparison.

    Returns:
        the report of everything that the folder holds; it is written there too.

    Raises:
        InputError: for anything about the configuration, data or folder that cannot be used.
        ModuleNotFoundError: without `lightly` (extra [compare]) where a method needs it.
    """
    config.check()
    for name in config.method_names:
        if METHODS[name].extra:
            import_module(METHODS[name].extra)  # now, not after hours of work
    device = find_device(config.device)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device))
    fingerprint = config.fingerprint()
    path = config.out / "comparison.json"
    theirs = _read(path) if path.exists() else None
    if theirs is not None:
        refuse_other_run(config.out, theirs["config"], fingerprint)
    for name in config.method_names:
        trained_module(METHODS[name], config.pretraining(name, 0))  # or it says what does not fit
    _check_given(config)
    sets = open_sets(config)
    if theirs is not None:
        refuse_other_run(config.out, theirs, {"split": sets.how})
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    about = {"config": fingerprint, "split": sets.how, "versions": versions}
    with shared(config.out):
        checkpoint.write_atomically(path, json.dumps(about, indent=2).encode() + b"\n")
    return _Comparison(config, sets, Machine(device, bf16)).run()


def shared(out: Path) -> FileLock:
    """Held while a file is written that all processes of a comparison write."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / ".lock")


def open_sets(config: CompareConfig) -> Sets:
    """The hands of a comparison, in memory if they fit.

    Raises:
        InputError: if no hand is labelled, or there are fewer than a batch.
    """
    samples: Samples = open_data(config.data)
    test_name = config.test_data or (HELD_OUT if config.data in ("embedded", "embedded?split=train") else "")
    if test_name:
        test, how = open_data(test_name, "test"), test_name
    else:
        samples, test, how = split_validation(samples, config.val_share, SPLIT_SEED + 1)
    samples, held, by = split_validation(samples, config.val_share, SPLIT_SEED)
    held = _at_most(held, config.val_limit)
    hands = open_hands(samples, config.size, config.cache_gb, config.workers)
    need = max((config.pretraining(name, 0).batch for name in config.method_names if METHODS[name].views), default=0)
    if len(hands) < need:
        raise InputError(
            f"--batch-views {config.batch_views} needs {need} images a step, and there are {len(hands)}: lower it"
        )
    for share in config.shares:
        if (count := len(label_subset(len(hands), share, 0))) < config.recipe.batch:
            raise InputError(
                f"--labels {share:g} gives {count} of {len(hands)} hands, less than"
                f" --recipe.batch {config.recipe.batch}: give a larger share, or a smaller batch"
            )
    if config.test_limit:
        test = Selection(test, np.arange(min(len(test), config.test_limit)))
    validation, tested = (load(s, config.size, config.workers if len(s) > 4096 else 0) for s in (held, test))
    split = f"{len(hands)} training hands; validation: {len(validation)} ({by}); test: {len(tested)} ({how})"
    return Sets(samples, hands, validation, tested, split)


def _at_most(samples: Selection, limit: int) -> Selection:
    if len(samples) <= limit:
        return samples
    chosen = torch.randperm(len(samples), generator=generator(SPLIT_SEED, 6))[:limit]
    return Selection(samples, np.sort(chosen.numpy()))


def _check_given(config: CompareConfig) -> None:
    """Raises InputError for a given model of another architecture, or another one than its cells are of."""
    for name, model in config.given_models.items():
        folder = find_folder(model)
        found, wanted = read_config(folder)["architecture"], config.model.removeprefix("ti_").partition(".")[0]
        if found != wanted:
            raise InputError(f"--given {name} is a {found}, where --model is {wanted}: compare like with like")
        path = config.out / "cells" / f"{name}-p0-pretraining.json"
        if path.exists() and _read(path)["given"] != sha256(folder / WEIGHTS_FILE):
            raise InputError(f"'{config.out}' holds cells of another --given {name}: give it another name")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"'{path}' cannot be read ({e}): remove it to compute it again") from e


class _Comparison:
    def __init__(self, config: CompareConfig, sets: Sets, machine: Machine):
        self.config, self.sets, self.machine = config, sets, machine
        self.folder, self.lock = config.out / "cells", shared(config.out)

    def run(self) -> Report:
        config, names = self.config, self.config.method_names
        with self.lock:
            self.cell("reference", lambda: {"stage": "reference", "test": finetuning.reference(self.sets)})
        done = [(name, seed) for seed in range(config.pretraining_seeds) for name in names]
        done += [(name, 0) for name in config.given_models]
        for name, seed in tqdm(done, "comparing", unit="method"):
            self.method(name, seed)
        more = [(name, seed) for name in self.best() for seed in range(config.pretraining_seeds, config.best_seeds)]
        for name, seed in tqdm(more, "the best, more seeds", unit="method", disable=not more):
            self.method(name, seed)
        return self.report()

    def method(self, name: str, seed: int) -> None:
        """One pretraining, and everything that follows from it."""
        config = self.config
        make = self.describe if name in config.given_models else self.pretrain
        self.cell(f"{name}-p{seed}-pretraining", lambda: make(name, seed))
        recipes = {"": config.recipe}
        recipes |= {v: finetuning.variant_recipe(config.recipe, v) for v in config.variants.get(name, [])}
        probe = finetuning.probe_recipe(config.recipe)
        self.finetune(name, seed, "probe", "", probe, 1.0, 0)
        for share, seeds in config.shares.items():
            for variant, recipe in recipes.items():
                for label_seed in range(seeds):
                    self.finetune(name, seed, "finetuning", variant, recipe, share, label_seed)
        self.report()

    def cell(self, name: str, make: Callable[[], Cell]) -> Cell:
        """A cell that is there, or made now."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return _read(path)
        tqdm.write(f"cell {name}")
        cell = make()
        checkpoint.write_atomically(path, json.dumps(cell, indent=1).encode() + b"\n")
        return cell

    def learning_rate(self, name: str) -> float:
        """The learning rate of a method's pretrainings: the best on validation of those to try."""
        rates = self.config.learning_rates if METHODS[name].views else self.config.learning_rates[:1]
        if len(rates) == 1:
            return rates[0]
        trials = [self.cell(f"{name}-trial-{lr:g}", lambda lr=lr: self.trial(name, lr)) for lr in rates]
        best = min(trials, key=lambda cell: score(cell["validation"]) if cell["validation"] else math.inf)
        return best["lr"]

    def trial(self, name: str, lr: float) -> Cell:
        """A short pretraining, and how good a linear probe of it is on validation."""
        config, sets = self.config, self.sets
        work = Pretraining(config, name, 0, sets.train, self.machine, lr, trial=True)
        cell: Cell = {"stage": "trial", "method": name, "lr": lr, "precision": self.precision, "validation": None}
        try:
            record = work.run()
        except Diverged as e:
            shutil.rmtree(work.options.out, ignore_errors=True)
            return cell | {"seconds": work.seconds, "diverged": str(e)}
        work.ti.save_pretrained(work.options.out)
        share = min(TRIAL_HANDS / len(sets.train), 1.0)
        recipe = finetuning.probe_recipe(config.recipe)
        tuned = finetuning.train(config, work.options.out, recipe, share, 0, sets, self.machine)
        shutil.rmtree(work.options.out)
        return cell | record | {"validation": tuned.best, "validations": len(tuned.curve)}

    def pretrain(self, name: str, seed: int) -> Cell:
        work = Pretraining(self.config, name, seed, self.sets.train, self.machine, self.learning_rate(name))
        record = work.run()
        certificate = work.finish(self.sets.validation.tensors["image"][:TEST_IMAGES], record)
        work.clear()
        about = {"stage": "pretraining", "method": name, "pretraining_seed": seed, "precision": self.precision}
        return about | record | {"certificate": certificate.summary()}

    def describe(self, name: str, seed: int) -> Cell:
        """The pretraining of a given model, as far as it is recorded, and its certificate on our images."""
        ti = TIBackbone.from_pretrained(self.config.given_models[name]).to(self.machine.device)
        training = ti.metadata.get("training", {})
        frame = training.get("objective", {}).get("frame", finetuning.FRAME)
        images = self.sets.validation.tensors["image"][:TEST_IMAGES]
        with self.machine.autocast:
            certificate = isomorphism.certify_backbone(ti, images, frame, "validation images")
        about = {"stage": "pretraining", "method": name, "pretraining_seed": seed, "precision": self.precision}
        digest = sha256(find_folder(self.config.given_models[name]) / WEIGHTS_FILE)
        about |= {"given": digest, "views": training.get("views", 0), "lr": None, "seconds": 0.0}
        return about | {"certificate": certificate.summary()}

    def finetune(self, name, seed, stage, variant, recipe, share, label_seed) -> Cell:
        about = {"stage": stage, "method": name, "variant": variant, "pretraining_seed": seed}
        about |= {"labels": share, "seed": label_seed, "precision": self.precision}
        row = f"{name}-{variant}" if variant else name
        folder = saved_model(self.config, name, seed)

        def make() -> Cell:
            if not (folder / WEIGHTS_FILE).is_file():  # the cells are all that is here of an earlier run
                self.pretrain(name, seed)
            return about | finetuning.run(self.config, folder, recipe, share, label_seed, self.sets, self.machine)

        return self.cell(f"{row}-p{seed}-{stage}-{share:g}-{label_seed}", make)

    @property
    def precision(self) -> str:
        return "bf16" if self.machine.bf16 else "fp32"

    def best(self) -> list[str]:
        """The pretrained methods that are best on validation with their best head; test is not looked at."""

        def mean_score(name: str) -> float:
            scores: dict[str, list[float]] = defaultdict(list)  # by variant
            for c in self.cells():
                if c.get("method") == name and c["stage"] == "finetuning" and c["pretraining_seed"] == 0:
                    scores[c["variant"]].append(score(c["validation"]))
            whole = [float(np.mean(s)) for s in scores.values() if len(s) == len(scores[""])]
            return min(whole, default=math.inf)

        pretrained = [name for name in self.config.method_names if METHODS[name].views]
        return sorted(pretrained, key=mean_score)[: self.config.best]

    def cells(self) -> list[Cell]:
        return [_read(path) for path in sorted(self.folder.glob("[!.]*.json"))]  # not what is being written

    def report(self) -> Report:
        """Write the report of all cells that are there."""
        with self.lock:
            return write_report(self.config.out, self.cells(), self.sets.how)
