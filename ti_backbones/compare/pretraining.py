"""One pretraining of a comparison: the same loop, images, order and optimiser for every method; resumable."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import checkpoint, isomorphism
from ..backbone import TIBackbone, find_folder
from ..data.order import StepSampler, generator, uniforms
from ..errors import InputError, first_line
from ..isomorphism import Certificate
from ..kernels import for_training
from ..objective import UNIFORMS, TIObjective
from ..pose.data import Hands, drawn
from ..pretrain_config import PretrainConfig
from ..pretrain_setup import build, learning_rate, make_optimiser, set_learning_rate
from .config import CompareConfig
from .methods import METHODS, Method

FITTED_ON = 512  # training images that a representation is fitted on, for encoders that were trained without one


@dataclass(frozen=True)
class Machine:
    """Where, and how exactly, encoders are trained."""

    device: torch.device
    bf16: bool

    @property
    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Diverged(InputError):
    """A pretraining whose loss or gradient is not finite."""


def trained_module(method: Method, config: PretrainConfig) -> nn.Module:
    """What a method trains, from weights that depend on the seed alone: every method starts from the same encoder.

    Raises:
        InputError: for a model, weights or size that do not go together.
    """
    torch.manual_seed(config.seed)
    base = build(config)
    return base if method.make is None else method.make(base)


class Pretraining:
    """The pretraining of one method with one seed.

    Args:
        config, name, seed: which. hands: the images; labels are not looked at. machine: where.
        lr: highest learning rate; the first of `config.lrs` if None. trial: whether it is a short one, to compare
            learning rates, in a folder of its own.

    Attributes:
        module: see `trained_module`. step, steps: where it is. seconds: the time it took so far.
    """

    def __init__(
        self,
        config: CompareConfig,
        name: str,
        seed: int,
        hands: Hands,
        machine: Machine,
        lr: float | None = None,
        trial: bool = False,
    ):
        self.method, self.name, self.hands, self.machine = METHODS[name], name, hands, machine
        self.options = config.pretraining(name, seed, lr)
        if trial:
            self.options = replace(self.options, out=config.out / "trials" / f"{name}-{self.options.lr:g}")
        self.every = 60 * config.checkpoint_minutes
        self.path = self.options.out / "training" / "checkpoint.pt"
        self.module = for_training(trained_module(self.method, self.options).to(machine.device))
        steps = config.trial_views // config.batch_views if trial else config.steps
        self.steps, self.step, self.seconds = steps if self.method.views else 0, 0, 0.0
        self.optimiser = make_optimiser(self.module, self.options)  # pyright: ignore[reportArgumentType]
        self.terms: dict[str, float] = {}

    @property
    def ti(self) -> TIBackbone:
        return self.module.ti  # pyright: ignore[reportReturnType]

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            steps, images a step, encoder views, seconds and the last step's loss terms.
        """
        self._restore()
        options, saved = self.options, time.perf_counter()
        sampler = StepSampler(
            len(self.hands), options.batch, self.steps, self.step, options.seed, 0, 1, self.hands.starts
        )
        self.module.train()
        with tqdm(
            desc=f"pretraining {self.name}",
            unit="view",
            initial=self.step * self.views,
            total=self.steps * self.views,
            disable=not self.steps,
            mininterval=0.5,
            delay=2,
            leave=False,
        ) as bar:
            for batch in self.hands.batches(sampler):
                began = time.perf_counter()
                if isinstance(self.module, TIObjective):
                    self.module.prepare(self.step, self.steps, lambda count: drawn(self.hands, count)["image"])
                self.terms = self._train_step(batch["image"])
                self.step += 1
                self.seconds += time.perf_counter() - began
                bar.update(self.views)
                bar.set_postfix(loss=f"{self.terms['loss']:.3f}", refresh=False)
                if time.perf_counter() - saved > self.every or self.step == self.steps:
                    self._save()
                    saved = time.perf_counter()
        self.module.eval()
        return {
            "steps": self.steps,
            "images_a_step": options.batch if self.steps else 0,
            "views": self.steps * self.views,
            "lr": options.lr,
            "seconds": self.seconds,
            "terms": self.terms,
        }

    @property
    def views(self) -> int:
        """Encoder views a step."""
        return self.options.batch * self.method.views

    def _train_step(self, images: Tensor) -> dict[str, float]:
        options, device = self.options, self.machine.device
        u = uniforms(options.seed, self.step, len(images), UNIFORMS)
        torch.manual_seed(generator(options.seed, 3, self.step).initial_seed())  # of dropout and its like
        set_learning_rate(self.optimiser, learning_rate(self.step, self.steps, options.lr, options.warmup))
        with self.machine.autocast:
            terms = self.module(images.to(device, non_blocking=True).float() / 255, u)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), options.clip)
        record = {k: v.item() for k, v in terms.items()} | {"grad_norm": norm.item()}
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            raise Diverged(
                f"pretraining {self.name}: the loss is {record['loss']:g} and the gradient norm"
                f" {record['grad_norm']:g} at step {self.step + 1}: lower --lrs, in another --out"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return record

    # --- Checkpoints and results --------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.hands.tally.share()
        self.hands.tally.check()
        state = {"step": self.step, "seconds": self.seconds, "terms": self.terms}
        state |= {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
        checkpoint.save(self.path, state)

    def _restore(self) -> None:
        if not self.path.exists():
            return
        state = checkpoint.load(self.path)
        try:
            self.module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.terms = state["step"], state["seconds"], state["terms"]
        except (KeyError, RuntimeError, ValueError) as e:
            raise InputError(
                f"checkpoint '{self.path}' does not fit ({first_line(e)}): remove it to start again"
            ) from e

    def finish(self, held_out: Tensor, record: dict[str, Any]) -> Certificate:
        """Fit a representation to the encoder, certify it and save it.

        Args:
            held_out: (N, 3, S, S) uint8 to certify on. record: goes into the model's metadata.
        """
        ti, frame, device = self.ti.eval(), self.options.objective.frame, self.machine.device
        images = drawn(self.hands, FITTED_ON)["image"]
        torch.manual_seed(self.options.seed)
        with self.machine.autocast:
            isomorphism.settle(ti, self.method.trains_transformer, images, frame, device)
            certificate = isomorphism.certify_backbone(ti, held_out, frame, "validation images")
        training = {
            "method": self.name,
            "objective": {"frame": frame},
            "size": self.options.size,
            "seed": self.options.seed,
            **record,
        }
        ti.metadata = {"training": training, "certificate": certificate.summary()}
        ti.save_pretrained(self.options.out)
        return certificate

    def clear(self) -> None:
        """Remove the checkpoint of a pretraining whose results are kept."""
        self.path.unlink(missing_ok=True)


def saved_model(config: CompareConfig, name: str, seed: int) -> Path:
    """The model folder of a finished pretraining, or of a given model."""
    if name in config.given_models:
        return find_folder(config.given_models[name])
    return config.pretraining(name, seed).out
