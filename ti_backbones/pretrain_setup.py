"""What a pretraining starts from: images in memory or on disk, the modules, the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from .backbone import TIBackbone, create_encoder, latent_width, load_strictly, read_weights, weights_of
from .data import ImageSet, LoadedImages, load_all, open_data
from .data.broken import Tally
from .data.images import Selection
from .data.order import generator
from .decoder import Decoder, MapDecoder, PooledDecoder
from .errors import InputError, first_line
from .objective import TIObjective
from .pretrain_config import PretrainConfig

HELD_OUT = "embedded?split=test"
TEST_IMAGES = 512  # at most so many are certified on


@dataclass
class TrainingImages:
    """The images of a run.

    Attributes:
        images: training images, (3, S, S) uint8 each.
        starts: see `order.permutation`.
        broken: what is broken among those that were read.
        in_memory: whether they are decoded already.
        test: (N, 3, S, S) uint8 that are not trained on, N <= TEST_IMAGES; None where not asked for.
        test_name: what these are.
    """

    images: ImageSet | LoadedImages
    starts: np.ndarray | None
    broken: Tally
    in_memory: bool
    test: Tensor | None
    test_name: str


def open_images(config: PretrainConfig, test: bool = True) -> TrainingImages:
    """Open a run's images; decode them now if they fit in memory.

    Args:
        config: says which.
        test: whether to decode the test images too.

    Raises:
        InputError: if there are none, fewer than a batch, or one that cannot be read.
    """
    samples = open_data(config.data)
    test_name = config.test_data or (HELD_OUT if config.data in ("embedded", "embedded?split=train") else "")
    held = 0 if test_name else min(max(len(samples) // 20, 1), TEST_IMAGES)
    if config.batch > len(samples) - held:
        raise InputError(
            f"--batch is {config.batch}, more than the {len(samples) - held} training images of '{config.data}':"
            " lower it, or give more images"
        )
    test_samples = open_data(test_name, "test") if test_name else None
    order = torch.randperm(len(samples), generator=generator(config.seed, 2)).numpy()
    training = Selection(samples, np.sort(order[held:]))
    broken = Tally(len(training), config.data)
    images: ImageSet | LoadedImages = ImageSet(training, config.size)
    in_memory = len(samples) * 3 * config.size**2 <= config.cache_gb * 2**30
    if in_memory:
        workers = config.workers if len(training) > 4096 else 0
        images = load_all(training, config.size, workers=workers, tally=broken)
    test_images = None
    if test:
        held_out = test_samples or Selection(samples, order[:held])
        test_images = load_all(held_out, config.size, limit=TEST_IMAGES).images
    test_name = test_name or f"{held} images of {config.data} kept out of training"
    return TrainingImages(images, training.starts, broken, in_memory, test_images, test_name)


def build(config: PretrainConfig) -> TIObjective:
    """The backbone, its decoder and their objective, on the CPU; random weights come from torch's generator.

    Raises:
        InputError: for a model, weights, rank or size that do not go together.
    """
    options: dict[str, Any] = {}
    if has_fixed_size(config.model):
        options = {"img_size": config.size} | ({"dynamic_img_size": True} if config.grow else {})
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    encoder = create_encoder(_encoder_name(config), pretrained=config.init == "timm", **options)
    if config.init not in ("random", "timm"):
        path = weights_of(config.init)
        if path is None:
            raise InputError(f"--init is '{config.init}': it must be random, timm, or a weights file that exists")
        load_strictly(encoder, without_classifier(read_weights(path), encoder), path)
    try:
        ti = TIBackbone(encoder, config.objective.latent, latent_config={"rank": config.rank} if config.rank else {})
    except InputError:
        raise
    except ValueError as e:
        raise InputError(f"--rank is {config.rank}: {e}") from e
    z, feature_map = _try_encoder(ti, config)
    side = min(config.sizes) // 2
    if config.objective.decode == "pooled":
        decoder: Decoder = PooledDecoder(z.shape[1], side)
    else:
        decoder = MapDecoder(feature_map.shape[1], side)
    cfg = cast(dict[str, Any], encoder.pretrained_cfg)
    return TIObjective(ti, decoder, config.objective, cfg["mean"], cfg["std"])


def at_last_size(ti: TIBackbone, config: PretrainConfig) -> TIBackbone:
    """The backbone as it is saved: an encoder that had to take several sizes becomes the plain one of the last."""
    if not config.grow or not has_fixed_size(config.model):
        return ti
    encoder = create_encoder(_encoder_name(config), img_size=config.size)
    encoder.load_state_dict(ti.encoder.state_dict())
    return TIBackbone(encoder.to(next(ti.parameters()).device), ti.latent_transformer)


def _encoder_name(config: PretrainConfig) -> str:
    """The `ti_*` name, whose configuration says nothing of timm's weights; timm's own to start from these."""
    base = config.model.removeprefix("ti_")
    if config.init == "timm":
        return base if timm.is_model(base) else config.model
    alias = f"ti_{timm.models.get_arch_name(base)}"
    return alias if timm.is_model(alias) else config.model


def make_optimiser(objective: TIObjective, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that leaves biases, norms, what timm exempts, and the latent transformer without weight decay.

    Its groups have `lr_scale`, see `set_learning_rate`; that of the first is 1.
    """
    encoder = cast(Any, objective.ti.encoder)
    exempt = {f"ti.encoder.{k}" for k in encoder.no_weight_decay()} if hasattr(encoder, "no_weight_decay") else set()
    exempt |= {name for name, _ in objective.named_parameters() if name.startswith("ti.latent_transformer.")}
    decayed = param_groups_weight_decay(objective, config.weight_decay, no_weight_decay_list=exempt)
    groups, of_encoder = [], {id(p) for p in encoder.parameters()}
    for inside, scale in ((False, 1.0), (True, config.encoder_lr)):
        for group in decayed:
            chosen = [p for p in group["params"] if (id(p) in of_encoder) == inside]
            groups += [{**group, "params": chosen, "lr_scale": scale}] if chosen else []
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set each group's learning rate: its `lr_scale` times `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(step: int, steps: int, highest: float, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then a cosine to 0; `step` counts from 0."""
    warm = max(round(warmup * steps), 1)
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def has_fixed_size(name: str) -> bool:
    """Whether timm must be told an architecture's image size when it builds it."""
    if ":" in name or not timm.is_model(name):
        return False
    cfg = timm.get_pretrained_cfg(timm.models.get_arch_name(name).removeprefix("ti_"))
    return bool(cfg and cfg.fixed_input_size)


def without_classifier(state: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The state without the classifier's tensors, which an encoder with num_classes=0 lacks."""
    heads = cast(dict[str, Any], encoder.pretrained_cfg).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    own = encoder.state_dict()
    return {k: v for k, v in state.items() if k in own or not any(k.startswith(f"{h}.") for h in heads)}


def _try_encoder(ti: TIBackbone, config: PretrainConfig) -> tuple[Tensor, Tensor]:
    """One small pass: the latent and the map, or a clear error. The modules' mode is kept."""
    modes = {module: module.training for module in ti.modules()}
    try:
        with torch.no_grad():
            z, feature_map = ti.eval().encode(torch.zeros(2, 3, config.size, config.size))
    except Exception as e:  # a model may fail in any way on a size it is not made for
        reason = first_line(e, 200)
        raise InputError(
            f"model '{config.model}' does not run at --size {config.size} ({reason}): give another size or model"
        ) from e
    for module, mode in modes.items():
        module.training = mode
    if z.ndim != 2 or z.shape[1] != latent_width(ti.encoder):
        raise InputError(
            f"model '{config.model}' gives no pooled latent (its shape is {tuple(z.shape)}): take another model"
        )
    return z, feature_map
