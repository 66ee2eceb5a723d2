"""Pretraining: one command, one process or many under torchrun, resumable to the bit on CPU.

Order, views and dropout are functions of (seed, step, position in the global batch), so a resumed run
repeats what an uninterrupted one would have done, and so does a run on another number of processes
wherever the model has no statistics or random numbers of its own over the batch. With `accumulate`,
the batch statistics of norms and of the collapse guard are those of one part.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import asdict
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from . import checkpoint, isomorphism, pictures
from .backbone import TIBackbone
from .data import read
from .data.order import StepSampler, generator, uniforms
from .distributed import World, fast_bf16, join, leave
from .errors import InputError, first_line
from .kernels import for_training
from .objective import UNIFORMS
from .pretrain_config import PretrainConfig, refuse_other_run
from .pretrain_setup import (
    TEST_IMAGES,
    at_last_size,
    build,
    learning_rate,
    make_optimiser,
    open_images,
    set_learning_rate,
)
from .runlog import Log, TensorBoard

__all__ = ["PretrainConfig", "pretrain"]

VIEWS = {"pair": 2, "paper": 14}  # of each image in a step
SHOWN = 5  # broken samples on the console at a time; the log names all


def pretrain(config: PretrainConfig) -> isomorphism.Certificate | None:
    """Run, or resume, a pretraining and write the model folder.

    Returns:
        the certificate of the finished model on held-out images (None on other ranks than 0).

    Raises:
        InputError: for anything about the configuration, data or folder that cannot be used.
    """
    config.check()
    world = join(config.device)
    try:
        return _Run(config, world).run()
    finally:
        leave()


def smaller(images: Tensor, size: int) -> Tensor:
    """Images (B, C, S, S) at a smaller side, antialiased; as they are at their own."""
    if images.shape[-1] == size:
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


class _Run:
    """State of one run in one process."""

    def __init__(self, config: PretrainConfig, world: World):
        self.config, self.world = config, world
        self.folder = config.out / "training"
        self.checkpoint_path = self.folder / "checkpoint.pt"
        self.step = 0
        with world.together():  # nothing is written before everything is known to fit
            parts = world.size * config.accumulate
            if config.batch % parts:
                raise InputError(
                    f"--batch is {config.batch}: it must be a multiple of processes x accumulate,"
                    f" {world.size} x {config.accumulate}; give {max(config.batch // parts, 1) * parts}"
                )
            state = self._find_checkpoint()
            self.data = open_images(config, test=world.main)
            if state is not None and state["images"] != len(self.data.images):
                raise InputError(
                    f"'{config.out}' holds a run on {state['images']} images, but '{config.data}' now has"
                    f" {len(self.data.images)}: resume it with its own images, or give another --out"
                )
            self.steps_per_epoch = len(self.data.images) // config.batch
            self.steps = config.epochs * self.steps_per_epoch
            self.views = self.steps * config.batch * VIEWS[config.objective.views]
            torch.manual_seed(config.seed)
            self.objective = for_training(build(config).to(world.device))
            self.optimiser = make_optimiser(self.objective, config)
            self.ema = None
            if config.ema:
                self.ema = AveragedModel(self.objective.ti, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
            if state is not None:
                self._restore(state)
                self.data.broken.restore(state.get("broken", self.data.broken.state()))
        self.trained: nn.Module = self.objective
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            self.trained = DistributedDataParallel(self.objective, device_ids=ids, find_unused_parameters=True)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(world.device))
        self.autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=bf16)
        self.precision = "bf16" if bf16 else "fp32"

    # --- Checkpoints ----------------------------------------------------------------------------------------------

    def _find_checkpoint(self) -> dict | None:
        """The checkpoint to go on from, if any."""
        config = self.config
        if self.checkpoint_path.exists():
            if not config.resume:
                raise InputError(
                    f"'{config.out}' already holds a run: add --resume to continue it, or give another --out"
                )
            state = checkpoint.load(self.checkpoint_path)
            if not {"step", "images", "config", "objective", "optimiser"} <= state.keys():
                raise InputError(f"checkpoint '{self.checkpoint_path}' is of no pretraining: give another --out")
            refuse_other_run(config.out, state["config"], config.fingerprint())
            return state
        if (config.out / "model.safetensors").exists():
            raise InputError(f"'{config.out}' already holds a model, and no run to resume: give another --out")
        return None

    def _restore(self, state: dict) -> None:
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        except (KeyError, RuntimeError, ValueError) as e:
            reason = first_line(e)
            raise InputError(
                f"checkpoint '{self.checkpoint_path}' does not fit ({reason}): remove it to start again"
            ) from e
        self.step = state["step"]

    def _save(self) -> None:
        state = {
            "step": self.step,
            "images": len(self.data.images),
            "config": self.config.fingerprint(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "broken": self.data.broken.state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        for name, value in state["objective"].items():
            if not value.isfinite().all():
                raise self._diverged(f"'{name}' is not finite after step {self.step}")
        checkpoint.save(self.checkpoint_path, state)

    def _diverged(self, what: str) -> InputError:
        if not self.checkpoint_path.exists():
            return InputError(f"{what}; there is no checkpoint yet: start again with a lower --lr or other weights")
        return InputError(
            f"{what}; the last good checkpoint is '{self.checkpoint_path}':"
            " go on from it with --resume and a lower --lr"
        )

    # --- The loop -------------------------------------------------------------------------------------------------

    def run(self) -> isomorphism.Certificate | None:
        config, world, main = self.config, self.world, self.world.main
        logs: list[Log | TensorBoard] = []
        with world.together():
            if main:
                logs = self._open_logs()
                self._announce()
        data, broken = self.data, self.data.broken
        length, span, share = len(data.images), (self.steps, self.step), (world.rank, world.size)
        sampler = StepSampler(length, config.batch, *span, config.seed, *share, data.starts)
        batches = read(data.images, sampler, 0 if data.in_memory else config.workers, broken)
        self.objective.train()
        with self._progress() as bar:
            clock, clock_step = time.perf_counter(), self.step
            while self.step < self.steps:
                with world.together():
                    batch = next(batches)
                self._prepare()
                terms = self._train_step(batch)
                self.step += 1
                bar.update(config.batch)
                last = self.step == self.steps
                due = self._is_due(config.log_every), self._is_due(config.checkpoint_every)
                draw = self._is_due(config.pictures_every) and not last
                if not (any(due) or draw or last):
                    continue
                broken.share(world)
                with world.together():
                    if main and (due[0] or last or broken.excessive):
                        now = time.perf_counter()
                        rate = (self.step - clock_step) * config.batch / (now - clock)
                        clock, clock_step = now, self.step
                        for log in logs:
                            log.write(self._record(terms, rate))
                        bar.set_postfix(loss=f"{terms['loss']:.3f}", gain=f"{terms['gain']:.2f}", refresh=False)
                    if main and (due[1] or last or broken.excessive):
                        self._save()
                    if main and draw:
                        self._draw()
                broken.check(f"'{self.folder / 'log.jsonl'}' names all: repair or remove them, then add --resume")
        return self._finish() if main else None

    def _prepare(self) -> None:
        """What comes before a step, see `TIObjective.prepare`."""
        self.objective.prepare(self.step, self.steps, self._some_images)
        if self.ema is not None and self.config.objective.begins(self.step, self.steps):
            transformer = cast(TIBackbone, self.ema.module).latent_transformer
            transformer.load_state_dict(self.objective.transformer.state_dict())

    def _some_images(self, count: int) -> Tensor:
        """Some training images, to fit a representation on, as large as they are now: (N, 3, S, S) uint8."""
        indices = torch.randperm(len(self.data.images), generator=generator(self.config.seed, 7))[:count]
        images = next(read(self.data.images, [sorted(indices.tolist())]))
        return smaller(images.float() / 255, self.config.size_at(self.step, self.steps)).mul(255).round().byte()

    def _train_step(self, batch: Tensor) -> dict[str, float]:
        """One optimiser step on this rank's share (B / ranks, 3, S, S) uint8 of the global batch.

        Returns:
            the loss, its terms and the gradient norm, averaged over parts and ranks.
        """
        config, world = self.config, self.world
        share = config.batch // world.size
        u = uniforms(config.seed, self.step, config.batch, UNIFORMS)[world.rank * share : (world.rank + 1) * share]
        # dropout and its like: a function of seed, step and rank, so that a resumed run repeats it
        torch.manual_seed(generator(config.seed, 3, self.step, world.rank).initial_seed())
        set_learning_rate(self.optimiser, learning_rate(self.step, self.steps, config.lr, config.warmup))
        size = config.size_at(self.step, self.steps)
        sums: dict[str, Tensor] = {}
        parts = list(zip(batch.chunk(config.accumulate), u.chunk(config.accumulate), strict=True))
        for i, (part, u_part) in enumerate(parts):
            context: contextlib.AbstractContextManager = contextlib.nullcontext()
            if isinstance(self.trained, DistributedDataParallel) and i + 1 < len(parts):
                context = self.trained.no_sync()  # gradients meet once a step
            with context:
                with self.autocast:
                    images = smaller(part.to(world.device, non_blocking=True).float() / 255, size)
                    terms = self.trained(images, u_part)
                (terms["loss"] / len(parts)).backward()
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + value.detach().float() / len(parts)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), config.clip)
        values = world.average(torch.stack([*sums.values(), norm.float()])).tolist()
        record = dict(zip([*sums, "grad_norm"], values, strict=True))
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            loss, norm = record["loss"], record["grad_norm"]
            raise self._diverged(f"the loss is {loss:g} and the gradient norm {norm:g} at step {self.step + 1}")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.objective.ti)
        return record

    # --- What is shown and written --------------------------------------------------------------------------------

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    def _announce(self) -> None:
        config, views = self.config, self.views
        print(
            f"pretraining {config.model} ({config.preset}) on {len(self.data.images)} images of {config.data},"
            f" {', '.join(map(str, config.sizes))} px, {self.steps} steps, {views} views, {self.precision},"
            f" {self.world.size} process{'es' if self.world.size > 1 else ''}"
            + (f", resumed at step {self.step}" if self.step else ""),
            flush=True,
        )

    def _open_logs(self) -> list[Log | TensorBoard]:
        logs: list[Log | TensorBoard] = [Log(self.folder / "log.jsonl", self.step)]
        with contextlib.suppress(ImportError):  # extra [train]
            logs.append(TensorBoard(self.folder / "tensorboard", self.step))
        return logs

    def _progress(self) -> tqdm:
        done, total = self.step * self.config.batch, self.steps * self.config.batch
        return tqdm(
            desc="pretraining",
            unit="img",
            initial=done,
            total=total,
            disable=not self.world.main,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )

    def _record(self, terms: dict[str, float], images_per_s: float) -> dict[str, Any]:
        values = {k: round(v, 6) for k, v in terms.items()}
        rate = {"lr": self.optimiser.param_groups[0]["lr"], "images_per_s": round(images_per_s, 1)}
        record = {"step": self.step, "epoch": self.step / self.steps_per_epoch, **values, **rate}
        if broken := self.data.broken.names:
            record |= {"broken": len(broken), "broken_names": self._tell_broken()}
        return record

    def _tell_broken(self) -> list[str]:
        """What was found broken since the last time, shown too."""
        news = self.data.broken.news()
        for line in news[:SHOWN]:
            tqdm.write(f"skipped: {line}")
        if len(news) > SHOWN:
            tqdm.write(f"skipped {len(news) - SHOWN} more: see '{self.folder / 'log.jsonl'}'")
        return news

    def _test_images(self) -> Tensor:
        assert self.data.test is not None  # it is there on rank 0, which alone draws and certifies
        return self.data.test

    def _draw(self) -> None:
        with self.autocast:
            png = pictures.view_grid(self.objective, self._test_images()[:8].float() / 255)
        checkpoint.write_atomically(self.folder / f"views-{self.step:06d}.png", png)

    def _finish(self) -> isomorphism.Certificate:
        """Fit T to the finished encoder, draw, certify and save."""
        config = self.config
        self.objective.eval()  # as a whole: what draws restores the mode that it finds
        ti = cast(TIBackbone, self.objective.ti if self.ema is None else self.ema.module)
        ti = at_last_size(ti, config).eval()
        trained, frame = config.objective.trains_transformer, config.objective.frame
        torch.manual_seed(config.seed)
        with self.autocast:
            isomorphism.settle(ti, trained, self._some_images(TEST_IMAGES), frame, self.world.device)
        self._draw()
        with self.autocast:
            certificate = isomorphism.certify_backbone(ti, self._test_images(), frame, self.data.test_name)
        ti.metadata = self._metadata(certificate)
        ti.save_pretrained(config.out)
        checkpoint.write_atomically(config.out / "certificate.json", certificate.to_json().encode())
        with contextlib.suppress(ImportError), checkpoint.replacing(config.out / "certificate.png") as [figure]:
            certificate.figure(figure)  # extra [train]
        return certificate

    def _metadata(self, certificate: isomorphism.Certificate) -> dict[str, Any]:
        config, views = self.config, self.views
        training = {"objective": asdict(config.objective), "preset": config.preset, "data": config.data}
        training |= {"images": len(self.data.images), "views": views, "size": config.size, "init": config.init}
        training |= {"lr": config.lr, "encoder_lr": config.encoder_lr}
        training |= {"grow": config.grow} if config.grow else {}
        return {
            "training": training | {"seed": config.seed, "precision": self.precision},
            "certificate": certificate.summary() | {"data": self.data.test_name, "images": certificate.images},
            "versions": {"torch": torch.__version__, "timm": timm.__version__},
        }
