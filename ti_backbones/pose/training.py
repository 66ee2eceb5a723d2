"""The training of a pose model on hands in memory or on disk: one process or many, resumable to the bit on CPU.

Order and augmentation are functions of (seed, step, position in the global batch), as in pretraining. The best weights
by validation are kept; test data is never seen here. `Fit` knows no files: `finetune` gives it checkpoints and logs,
and comparisons call it on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from .. import o2
from ..data.order import StepSampler, generator, uniforms
from ..distributed import World
from ..errors import InputError
from ..pretrain_setup import learning_rate, set_learning_rate
from . import metrics
from .data import Batch, Hands, InMemory, in_chunks, label_subset
from .model import PoseModel
from .objective import Objective, numbers
from .recipe import Recipe

VALIDATIONS = 100  # at most so many in a run
CALIBRATION = 1024  # images that a head takes its input's statistics from
ALONE = World(0, 1, torch.device("cpu"))


def make_optimiser(model: PoseModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with layer-wise learning rates in the encoder, no weight decay on biases and norms."""
    groups = param_groups_weight_decay(model.head, recipe.weight_decay)
    if not recipe.frozen:
        encoder: Any = model.encoder
        exempt = encoder.no_weight_decay() if hasattr(encoder, "no_weight_decay") else ()
        if recipe.layer_decay < 1:
            groups += param_groups_layer_decay(encoder, recipe.weight_decay, exempt, layer_decay=recipe.layer_decay)
        else:
            groups += param_groups_weight_decay(encoder, recipe.weight_decay, no_weight_decay_list=exempt)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=(0.9, 0.999), fused=True)


@torch.no_grad()
def predict(
    model: PoseModel, hands: InMemory, bf16: bool = False, batch: int = 128, desc: str = "", angle: float = 0.0
) -> Tensor:
    """Root-relative joints (N, 21, 3) in mm, on the CPU, of hands' images or latents; the model's mode is kept.

    Args:
        angle: radians by which images are turned before.
    """
    training, device, out = model.training, model.image_mean.device, []
    model.eval()
    order = in_chunks(len(hands), batch)
    parts = tqdm(hands.batches(order), desc, len(order), unit="batch", delay=2, leave=False, disable=not desc)
    for part in parts:
        if "latent" in part:
            out.append(model.pose(part["latent"].to(device), part["side"].to(device)).cpu())
            continue
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            views = model.views(part["image"], o2.element(False, angle, len(part["image"])))
            out.append(model.pose(model.latents(views), part["side"].to(device)).float().cpu())
    model.train(training)
    return torch.cat(out)


@torch.no_grad()
def with_latents(model: PoseModel, hands: Hands, bf16: bool = False, batch: int = 128) -> InMemory:
    """The hands with latents in the place of their images, for a frozen encoder: it is asked once."""
    training, device, parts = model.training, model.image_mean.device, []
    model.eval()
    order = in_chunks(len(hands), batch)
    for part in tqdm(hands.batches(order), "latents", len(order), unit="batch", delay=2, leave=False):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            part["latent"] = model.latents(model.views(part.pop("image"))).cpu()
        parts.append(part)
    model.train(training)
    return InMemory({k: torch.cat([part[k] for part in parts]) for k in parts[0]}, hands.tally)


class Fit:
    """The training of a model on hands.

    Args:
        model: it is trained in place, on its device; its encoder is frozen if the recipe says so.
        train: hands with images, or latents if the recipe needs no images.
        validation: hands in memory; the best weights are those of the least MPJPE + PA-MPJPE on them.
        recipe, seed: how. bf16: whether the encoder computes in bfloat16.
        world: the processes that share the batches.

    Attributes:
        step, steps, epochs, batch: where it is, and how long it takes.
        curve: a record of each validation: step, epoch, loss, mpjpe, pa_mpjpe (on rank 0).

    Raises:
        InputError: if latent augmentation has no latent transformer, or there are fewer hands than processes.
    """

    def __init__(
        self,
        model: PoseModel,
        train: Hands,
        validation: InMemory,
        recipe: Recipe,
        seed: int = 0,
        bf16: bool = False,
        world: World = ALONE,
    ):
        self.model, self.train, self.validation = model, train, validation
        self.recipe, self.seed, self.bf16, self.world = recipe, seed, bf16, world
        if recipe.turns_latents and model.transformer is None:
            raise InputError("latent augmentation needs a latent transformer, and the model has none: augment images")
        self.batch = min(recipe.batch, len(train)) // world.size * world.size
        if not self.batch:
            raise InputError(f"{len(train)} training hands for {world.size} processes: give more, or fewer processes")
        self.per_epoch = len(train) // self.batch
        self.epochs = max(recipe.epochs, math.ceil(recipe.min_steps / self.per_epoch))
        self.steps, self.step = self.epochs * self.per_epoch, 0
        self.every = math.ceil(self.epochs / VALIDATIONS)
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        model.freeze(recipe.frozen)
        self.objective = Objective(model, recipe, bf16)
        self.optimiser = make_optimiser(model, recipe)
        self.trained: nn.Module = self.objective

    def calibrate(self) -> None:
        """Let the head take its input's statistics from augmented training images; only before the first step."""
        recipe, some = self.recipe, label_subset(len(self.train), CALIBRATION, self.seed)
        chosen = [some[part].tolist() for part in in_chunks(len(some), 128)]
        self.model.eval()
        out = []
        with torch.no_grad():
            for i, batch in enumerate(self.train.batches(chosen)):
                batch = self._to_device(batch)
                u = uniforms(self.seed, 2**40 + i, len(chosen[i]), numbers(recipe))
                out.append(self.objective.encode(batch, u)[0])
        self.model.head.calibrate(torch.cat(out))

    # --- The loop -------------------------------------------------------------------------------------------------

    def run(self, after_step: Callable[[Fit, dict[str, float], bool], None] | None = None, bar: bool = True) -> Fit:
        """Train to the end, then take the best weights (on rank 0).

        Args:
            after_step: called after every step with the loss's terms, and whether there was a validation.
            bar: whether to show progress.
        """
        if not self.step:
            self.calibrate()
        if self.world.size > 1:
            ids = [self.world.device.index] if self.world.device.type == "cuda" else None
            self.trained = DistributedDataParallel(self.objective, device_ids=ids, find_unused_parameters=True)
        span, share = (self.steps, self.step), (self.world.rank, self.world.size)
        sampler = StepSampler(len(self.train), self.batch, *span, self.seed, *share, self.train.starts)
        batches = self.train.batches(sampler)
        self.model.train()
        shown = bar and self.world.main
        with tqdm(
            desc="fine-tuning",
            unit="img",
            initial=self.step * self.batch,
            total=self.steps * self.batch,
            disable=not shown,
            delay=2,
            mininterval=0.5,
            leave=False,
        ) as progress:
            while self.step < self.steps:
                with self.world.together():
                    batch = next(batches)
                terms = self._train_step(batch)
                self.step += 1
                progress.update(self.batch)
                epoch, within = divmod(self.step, self.per_epoch)
                validate = not within and (epoch % self.every == 0 or self.step == self.steps)
                if validate:
                    with self.world.together():
                        if self.world.main:
                            self._validate(terms)
                            latest = self.curve[-1]
                            progress.set_postfix({k: f"{latest[k]:.1f}" for k in ("mpjpe", "pa_mpjpe")}, refresh=False)
                if after_step is not None:
                    after_step(self, terms, validate)
        self.trained = self.objective
        if self.world.main:
            self.model.load_state_dict(self.model.state_dict() | self.best)
        self.model.eval()
        return self

    def _to_device(self, batch: Batch) -> Batch:
        return {k: v.to(self.model.image_mean.device, non_blocking=True) for k, v in batch.items()}

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on this rank's share; the loss's terms and the gradient norm, averaged over ranks."""
        recipe, world = self.recipe, self.world
        share = self.batch // world.size
        u = uniforms(self.seed, self.step, self.batch, numbers(recipe))[world.rank * share : (world.rank + 1) * share]
        torch.manual_seed(generator(self.seed, 3, self.step, world.rank).initial_seed())  # of dropout and its like
        lr = learning_rate(self.step, self.steps, recipe.lr, recipe.warmup)
        if recipe.schedule == "constant":
            lr = recipe.lr * min((self.step + 1) / max(round(recipe.warmup * self.steps), 1), 1.0)
        set_learning_rate(self.optimiser, lr)
        terms = self.trained(self._to_device(batch), u)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        values = world.average(torch.stack([*(t.detach().float() for t in terms.values()), norm.float()])).tolist()
        record = dict(zip([*terms, "grad_norm"], values, strict=True))
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            raise Diverged(f"the loss is {record['loss']:g} and the gradient norm {record['grad_norm']:g}", self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return record

    def _validate(self, terms: dict[str, float]) -> None:
        hands = self.validation.tensors
        prediction, target, valid = predict(self.model, self.validation, self.bf16), hands["joints"], hands["valid"]
        if not prediction.isfinite().all():
            raise Diverged("predictions on the validation set are not finite", self.step)
        record = {"step": self.step, "epoch": self.step / self.per_epoch, "loss": terms["loss"]}
        record["mpjpe"] = metrics.mpjpe(prediction, target, valid).mean().item()
        record["pa_mpjpe"] = metrics.pa_mpjpe(prediction, target, valid).mean().item()
        if not self.curve or score(record) < min(map(score, self.curve)):
            self.best = {k: v.detach().cpu().clone() for k, v in self._trained_state().items()}
        self.curve.append(record)

    @property
    def best_record(self) -> dict[str, float]:
        """The record of the weights that are kept."""
        return min(self.curve, key=score)

    # --- State ----------------------------------------------------------------------------------------------------

    def _trained_state(self) -> dict[str, Tensor]:
        """What training changes of the model's state."""
        state = self.model.state_dict()
        return {k: v for k, v in state.items() if not (self.recipe.frozen and k.startswith("encoder."))}

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "step": self.step,
            "hands": len(self.train),
            "model": self._trained_state(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "curve": [dict(r) for r in self.curve],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`.

        Raises:
            KeyError, RuntimeError, ValueError: if it is of another model.
        """
        self.model.load_state_dict(self.model.state_dict() | state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best, self.curve, self.step = state["best"], state["curve"], state["step"]


def score(record: dict[str, float]) -> float:
    """What validation minimises."""
    return record["mpjpe"] + record["pa_mpjpe"]


class Diverged(InputError):
    """A training that went astray: what was seen, and after how many steps."""

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} at step {step + 1}: lower --recipe.lr, or give other weights")
        self.what, self.step = what, step
