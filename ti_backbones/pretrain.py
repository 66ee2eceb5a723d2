"""Pretraining: one command, one process or many under torchrun, resumable to the bit on CPU."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint, isomorphism, pictures
from .backbone import TIBackbone, create_encoder, latent_width, load_strictly, read_weights
from .data import ImageSet, load_all, open_data
from .data.order import StepSampler, generator, uniforms
from .decoder import MapDecoder, PooledDecoder
from .distributed import World, fast_bf16, join, leave
from .errors import InputError
from .objective import UNIFORMS, Objective, TIObjective

IN_MEMORY = 1 << 30  # bytes of decoded images that are kept rather than decoded in every epoch
MAY_CHANGE = {"out", "resume", "workers", "lr", "log_every", "pictures_every", "checkpoint_every", "device"}


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
    """random, timm (timm's own pretrained weights), or a weights file"""
    preset: Literal["o2", "paper"] = "o2"
    """where the objective starts from; its options follow below"""
    objective: Objective = field(default_factory=Objective)
    rank: int = 0
    """rank of the latent transformer; 0: min(256, D / 2) for o2, 128 for affine"""
    size: int = 96
    """side of the images, pixels, a multiple of 32"""
    epochs: int = 100
    batch: int = 128
    """source images a step, over all processes"""
    accumulate: int = 1
    """parts that a step's batch is split into, to save memory"""
    lr: float = 1.5e-3
    warmup: float = 0.1
    """share of the steps in which the learning rate rises; then it falls along a cosine"""
    weight_decay: float = 0.05
    clip: float = 5.0
    """largest gradient norm"""
    ema: float = 0.0
    """decay of the exponential moving average of the weights; 0: none"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the device has units for it"""
    device: str = "auto"
    workers: int = 2
    """processes that decode images, where they do not fit in memory"""
    seed: int = 0
    log_every: int = 10
    """steps"""
    pictures_every: int = 500
    """steps; 0: only at the end"""
    checkpoint_every: int = 200
    """steps"""
    resume: bool = False
    """continue the run in `out`, or start it if there is none"""

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        rules = [
            ("size", self.size >= 32 and self.size % 32 == 0, "a multiple of 32"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 2, "at least 2"),
            ("accumulate", self.accumulate >= 1 and self.batch % self.accumulate == 0, "a divisor of the batch"),
            ("lr", 0 < self.lr < 1, "between 0 and 1"),
            ("warmup", 0 <= self.warmup < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("clip", self.clip > 0, "above 0"),
            ("ema", 0 <= self.ema < 1, "from 0 to below 1"),
            ("rank", self.rank >= 0, "0 or more"),
            ("workers", self.workers >= 0, "0 or more"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("pictures_every", self.pictures_every >= 0, "0 or more"),
            ("checkpoint_every", self.checkpoint_every >= 1, "at least 1"),
        ]
        weights = asdict(self.objective)
        rules += [
            (f"objective.{k}", v >= 0 and math.isfinite(v), "0 or more") for k, v in weights.items() if not isinstance(v, str)
        ]
        for name, fine, wanted in rules:
            if not fine:
                value = weights[name.split(".")[1]] if "." in name else getattr(self, name)
                raise InputError(f"--{name.replace('_', '-')} is {value}: it must be {wanted}")

    def fingerprint(self) -> dict:
        """What a resumed run must agree with, as plain JSON values."""
        values = {k: v for k, v in asdict(self).items() if k not in MAY_CHANGE}
        return json.loads(json.dumps(values, default=str))


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


class _Run:
    """State of one run in one process."""

    def __init__(self, config: PretrainConfig, world: World):
        self.config, self.world = config, world
        self.folder = config.out / "training"
        self.checkpoint_path = self.folder / "checkpoint.pt"
        if config.batch % (world.size * config.accumulate):
            raise InputError(
                f"--batch is {config.batch}: it must be a multiple of processes x accumulate,"
                f" {world.size} x {config.accumulate}"
            )
        state = self._open_folder()
        self._open_data()
        torch.manual_seed(config.seed)
        self._build()
        self.step = 0
        if state is not None:
            self._restore(state)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(world.device))
        self.autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=bf16)
        self.precision = "bf16" if bf16 else "fp32"

    def _open_folder(self) -> dict | None:
        """The checkpoint to go on from, if any."""
        config = self.config
        if self.checkpoint_path.exists():
            if not config.resume:
                raise InputError(f"'{config.out}' already holds a run: add --resume to continue it, or give another --out")
            state = checkpoint.load(self.checkpoint_path)
            theirs, ours = state["config"], config.fingerprint()
            for key in ours:
                if theirs.get(key) != ours[key]:
                    mine, its = ours[key], theirs.get(key)
                    if isinstance(mine, dict) and isinstance(its, dict):
                        inner = next(k for k in mine if mine[k] != its.get(k))
                        key, mine, its = f"{key}.{inner}", mine[inner], its.get(inner)
                    raise InputError(
                        f"'{config.out}' holds a run with {key} {its!r}, not {mine!r}:"
                        f" resume it with its own options, or give another --out"
                    )
            return state
        if not config.resume and (config.out / "model.safetensors").exists():
            raise InputError(f"'{config.out}' already holds a model: give another --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise checkpoint.cannot_write(self.folder, e) from e
        return None

    def _open_data(self) -> None:
        config = self.config
        samples = open_data(config.data)
        images: ImageSet | torch.utils.data.Dataset = ImageSet(samples, config.size)
        self.workers = config.workers
        if len(samples) * 3 * config.size**2 <= IN_MEMORY:
            images, self.workers = load_all(samples, config.size, workers=config.workers), 0
        order = torch.randperm(len(samples), generator=generator(config.seed, 2))
        held = 0
        if config.test_data or config.data.startswith("embedded"):
            test = open_data(config.test_data or "embedded?split=test")
            self.test_name = config.test_data or "embedded?split=test"
            self.test_images = load_all(test, config.size, limit=512).images if self.world.main else None
        else:
            held = min(max(len(samples) // 20, 1), 512)
            self.test_name = f"{held} images of {config.data} kept out of training"
            kept = [images[i] for i in order[:held].tolist()] if self.world.main else []
            self.test_images = torch.stack(kept) if kept else None
        self.images = torch.utils.data.Subset(images, order[held:].tolist())
        if config.batch > len(self.images):
            raise InputError(
                f"--batch is {config.batch}, more than the {len(self.images)} training images of '{config.data}':"
                " lower it, or give more images"
            )
        self.steps_per_epoch = len(self.images) // config.batch
        self.steps = config.epochs * self.steps_per_epoch

    def _build(self) -> None:
        config, device = self.config, self.world.device
        size = {"img_size": config.size} if _has_fixed_size(config.model) else {}
        encoder = create_encoder(config.model, pretrained=config.init == "timm", **size)
        if config.init not in ("random", "timm"):
            load_strictly(encoder, _without_classifier(read_weights(config.init), encoder), config.init)
        rank = {"rank": config.rank} if config.rank else {}
        try:
            ti = TIBackbone(encoder, config.objective.latent, latent_config=rank)
        except ValueError as e:
            raise InputError(f"--rank is {config.rank}: {e}") from e
        z, feature_map = _try_encoder(ti, config)
        self.views_a_step = config.batch * {"pair": 2, "paper": 14}[config.objective.views]
        pooled = config.objective.decode == "pooled"
        decoder = PooledDecoder(z.shape[1], config.size) if pooled else MapDecoder(feature_map.shape[1], config.size)
        mean, std = encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"]
        objective = TIObjective(ti, decoder, config.objective, mean, std)
        self.objective = objective.to(device=device, memory_format=torch.channels_last)
        frozen = {f"ti.encoder.{k}" for k in getattr(encoder, "no_weight_decay", set)()}
        frozen |= {n for n, _ in objective.named_parameters() if n.startswith("ti.latent_transformer.")}
        groups = param_groups_weight_decay(self.objective, config.weight_decay, list(frozen))
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = AveragedModel(ti, multi_avg_fn=average) if config.ema else None
        self.trained: nn.Module = self.objective
        if self.world.size > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.trained = DistributedDataParallel(self.objective, device_ids=ids, find_unused_parameters=True)

    def _restore(self, state: dict) -> None:
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        except (KeyError, RuntimeError, ValueError) as e:
            reason = (str(e).splitlines() or [""])[0]
            raise InputError(f"checkpoint '{self.checkpoint_path}' does not fit ({reason}): remove it to start again") from e
        self.step = state["step"]

    def _save(self) -> None:
        if not self.world.main:
            return
        state = {
            "step": self.step,
            "config": self.config.fingerprint(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        checkpoint.save(self.checkpoint_path, state)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0."""
        warm = max(round(self.config.warmup * self.steps), 1)
        if step < warm:
            return self.config.lr * (step + 1) / warm
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(self.steps - warm, 1)))

    def run(self) -> isomorphism.Certificate | None:
        config, world = self.config, self.world
        log = checkpoint.Log(self.folder / "log.jsonl", self.step) if world.main else None
        board = _tensorboard(self.folder) if world.main else None
        if world.main:
            views = self.steps * self.views_a_step
            print(
                f"pretraining {config.model} ({config.preset}) on {len(self.images)} images of {config.data},"
                f" {config.size} px, {self.steps} steps, {views} views, {self.precision}, {world.size} process(es)"
                + (f", resumed at step {self.step}" if self.step else ""),
                flush=True,
            )
        sampler = StepSampler(
            len(self.images), config.batch, self.steps, self.step, config.seed, world.rank, world.size
        )
        loader = DataLoader(self.images, batch_sampler=sampler, num_workers=self.workers)
        bar = tqdm(
            total=self.steps * config.batch, initial=self.step * config.batch, unit="img", disable=not world.main,
            desc="pretraining", smoothing=0.05, mininterval=0.5,
        )
        self.objective.train()
        began, began_at = time.perf_counter(), self.step
        for batch in loader:
            terms, norm = self._train_step(batch)
            self.step += 1
            bar.update(config.batch)
            if log is not None and (self.step % config.log_every == 0 or self.step == self.steps):
                rate = (self.step - began_at) * config.batch / (time.perf_counter() - began)
                values = {k: round(v, 6) for k, v in terms.items()}
                record = {"step": self.step, "epoch": self.step / self.steps_per_epoch, **values}
                record |= {"lr": self.optimiser.param_groups[0]["lr"], "grad_norm": norm, "images_per_s": round(rate, 1)}
                log.write(record)
                bar.set_postfix(loss=f"{terms['loss']:.3f}", gain=f"{terms['gain']:.2f}", refresh=False)
                if board is not None:
                    for key, value in record.items():
                        board.add_scalar(key, value, self.step)
            if self.step % config.checkpoint_every == 0 or self.step == self.steps:
                self._save()
            if config.pictures_every and self.step % config.pictures_every == 0:
                self._draw()
        bar.close()
        if board is not None:
            board.close()
        return self._finish() if world.main else None

    def _train_step(self, batch: Tensor) -> tuple[dict[str, float], float]:
        """One optimiser step on this rank's share (B / ranks, 3, S, S) uint8 of the global batch."""
        config, world = self.config, self.world
        share = config.batch // world.size
        u = uniforms(config.seed, self.step, config.batch, UNIFORMS)[world.rank * share : (world.rank + 1) * share]
        # dropout and its like: a function of seed, step and rank, so that a resumed run repeats it
        torch.manual_seed(generator(config.seed, 3, self.step, world.rank).initial_seed())
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        total: dict[str, float] = {}
        for part, u_part in zip(batch.chunk(config.accumulate), u.chunk(config.accumulate), strict=True):
            with self.autocast:
                images = part.to(world.device, non_blocking=True).float() / 255
                terms = self.trained(images, u_part)
            (terms["loss"] / config.accumulate).backward()
            for key, value in terms.items():
                total[key] = total.get(key, 0.0) + value.item() / config.accumulate
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), config.clip).item()
        if not (math.isfinite(norm) and math.isfinite(total["loss"])):
            good = f"the last good checkpoint is '{self.checkpoint_path}'" if self.checkpoint_path.exists() else "no checkpoint yet"
            raise InputError(
                f"loss {total['loss']}, gradient norm {norm} at step {self.step + 1}: {good};"
                " resume from it with --resume and a lower --lr"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.objective.ti)
        return total, norm

    def _draw(self) -> None:
        if self.test_images is not None:
            with self.autocast:
                png = pictures.view_grid(self.objective, self.test_images[:8].float() / 255)
            checkpoint.write_atomically(self.folder / f"views-{self.step:06d}.png", png)

    def _finish(self) -> isomorphism.Certificate:
        """Certify and save the finished model."""
        config = self.config
        self._draw()
        ti = (self.ema.module if self.ema is not None else self.objective.ti).eval()
        with self.autocast:
            certificate = isomorphism.certify_backbone(ti, self.test_images, config.objective.frame, self.test_name)
        ti.metadata = {
            "training": {"objective": asdict(config.objective), "preset": config.preset, "data": config.data}
            | {"images": len(self.images), "views": self.steps * self.views_a_step, "size": config.size}
            | {"init": config.init, "seed": config.seed, "precision": self.precision},
            "certificate": certificate.summary() | {"data": self.test_name, "images": certificate.images},
            "versions": {"torch": torch.__version__, "timm": timm.__version__},
        }
        ti.save_pretrained(config.out)
        checkpoint.write_atomically(config.out / "certificate.json", certificate.to_json().encode())
        with suppress(ImportError):
            certificate.figure(config.out / "certificate.png")
        return certificate


def _has_fixed_size(name: str) -> bool:
    """Whether the architecture must be told the image size when it is built."""
    if ":" in name or not timm.is_model(name):
        return False
    cfg = timm.models.get_pretrained_cfg(timm.models.get_arch_name(name).removeprefix("ti_"))
    return bool(cfg and cfg.fixed_input_size)


def _without_classifier(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The state without the classifier's tensors, which an encoder with num_classes=0 lacks."""
    heads = encoder.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    own = encoder.state_dict()
    return {k: v for k, v in state.items() if k in own or not any(k.startswith(f"{h}.") for h in heads)}


def _try_encoder(ti: TIBackbone, config: PretrainConfig) -> tuple[Tensor, Tensor]:
    """One small pass: the latent and the map, or a clear error."""
    training = ti.training
    try:
        with torch.no_grad():
            z, feature_map = ti.eval().encode(torch.zeros(2, 3, config.size, config.size))
    except Exception as e:  # a model may fail in any way on a size it is not made for
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise InputError(
            f"model '{config.model}' does not run at --size {config.size} ({reason}): give another size or model"
        ) from e
    ti.train(training)
    if z.ndim != 2 or z.shape[1] != latent_width(ti.encoder):
        raise InputError(f"model '{config.model}' gives no pooled latent (its shape is {tuple(z.shape)}): take another model")
    return z, feature_map


def _tensorboard(folder: Path):
    """A TensorBoard writer, if it is installed (extra [train])."""
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder / "tensorboard")
    return None
