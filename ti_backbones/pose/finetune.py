"""`ti-backbones finetune`: from a backbone and labelled hands to a pose folder.

The best weights by validation are kept; validation frames come from `--val-data`, or whole subjects or sequences are
held out of the training data. Test data is for `evaluate` alone.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from .. import checkpoint
from ..data import open_data
from ..data.images import Samples, Selection
from ..data.order import generator
from ..distributed import World, fast_bf16, join, leave
from ..errors import InputError, first_line
from ..kernels import for_training
from ..latent import LatentTransformer
from ..run_folder import RunFolder
from .augment import Frame
from .data import Hands, InMemory, label_subset, load, open_hands, split_validation
from .finetune_config import FinetuneConfig
from .mano import Mano
from .model import POSE_FILE, Output, PoseModel, PoseSpec, build_head
from .start import fit_transformer, needs_transformer, start_from
from .training import Diverged, Fit, with_latents

__all__ = ["FinetuneConfig", "finetune"]


def finetune(config: FinetuneConfig) -> dict[str, Any] | None:
    """Run, or resume, a fine-tuning and write the pose folder.

    Returns:
        the record of the weights that are kept: step, epoch, loss, mpjpe, pa_mpjpe on validation (None on other ranks
        than 0).

    Raises:
        InputError: for anything about the configuration, data or folder that cannot be used.
    """
    config.check()
    world = join(config.device)
    try:
        return _run(config, world)
    finally:
        leave()


def _run(config: FinetuneConfig, world: World) -> dict[str, Any] | None:
    folder = RunFolder(config.out, POSE_FILE, config.resume)
    with world.together():  # nothing is written before everything is known to fit
        keys = {"step", "hands", "model", "optimiser", "best", "curve", "broken"}
        state = folder.find(config.fingerprint(), keys, "fine-tuning")
        bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(world.device))
        torch.manual_seed(config.seed)
        encoder, transformer, training = start_from(config)
        train, validation, how = _open(config, training["size"])
        torch.manual_seed(config.seed)  # reading draws from it
        model = for_training(_build(config, encoder, transformer, training, train, world.device).to(world.device))
        if not config.recipe.uses_images:
            model.freeze(encoder=True)
            train, validation = (with_latents(model, hands, bf16) for hands in (train, validation))
        fit = Fit(model, train, validation, config.recipe, config.seed, bf16, world)
        if state is not None:
            _restore(config, folder, fit, state)
    with world.together():
        if world.main:
            folder.open_logs(fit.step)
            _announce(config, fit, how, bf16)
    try:
        fit.run(lambda *said: _after_step(config, folder, *said))
    except Diverged as e:
        raise folder.diverged(f"{e.what} at step {e.step + 1}", "--recipe.lr") from e
    with world.together():
        if world.main:
            best = fit.best_record
            model.spec.record = _record(config, fit, how, best)
            model.save(config.out)
            curve = json.dumps(fit.curve, indent=2).encode() + b"\n"
            checkpoint.write_atomically(config.out / "validation.json", curve)
            with contextlib.suppress(ImportError):
                _draw(config.out / "validation.png", fit.curve)
    return fit.best_record if world.main else None


def _open(config: FinetuneConfig, size: int) -> tuple[Hands, InMemory, str]:
    """Training hands, validation hands in memory, and how validation was chosen."""
    samples: Samples = open_data(config.data)
    if config.val_data:
        held: Samples = open_data(config.val_data, "val")
        how = f"{len(held)} samples of {config.val_data}"
    else:
        samples, held, how = split_validation(samples, config.val_share, config.seed)
    if len(held) > config.val_limit:
        chosen = torch.randperm(len(held), generator=generator(config.seed, 6))[: config.val_limit]
        held, how = Selection(held, np.sort(chosen.numpy())), f"{config.val_limit} of {how}"
    chosen = label_subset(len(samples), config.labels, config.seed)
    if len(chosen) < len(samples):
        samples = Selection(samples, chosen)
    return open_hands(samples, size, config.cache_gb, config.workers), load(held, size, config.workers), how


def _build(
    config: FinetuneConfig,
    encoder: nn.Module,
    transformer: LatentTransformer | None,
    training: dict[str, Any],
    train: Hands,
    device: torch.device,
) -> PoseModel:
    recipe = config.recipe
    frame: Frame = training["frame"]
    if transformer is None and needs_transformer(recipe):
        transformer = fit_transformer(encoder.to(device), train, frame, device)
    output: Output = config.output
    body = Mano(config.mano) if output == "mano" and config.mano is not None else None
    head = build_head(encoder, transformer, recipe.head_kind, output, **recipe.head_options)
    spec = PoseSpec(training["size"], frame, output, head.kind, head.options, body.sha256 if body else "")
    return PoseModel(encoder, transformer, head, spec, body)


def _restore(config: FinetuneConfig, folder: RunFolder, fit: Fit, state: dict[str, Any]) -> None:
    if state["hands"] != len(fit.train):
        raise InputError(
            f"'{config.out}' holds a run on {state['hands']} hands, but '{config.data}' now gives {len(fit.train)}:"
            " resume it with its own data, or give another --out"
        )
    try:
        fit.restore(state)
    except (KeyError, RuntimeError, ValueError) as e:
        raise InputError(
            f"checkpoint '{folder.checkpoint}' does not fit ({first_line(e)}): remove it to start again"
        ) from e
    fit.train.tally.restore(state["broken"])


def _after_step(config: FinetuneConfig, folder: RunFolder, fit: Fit, terms: dict[str, float], validated: bool) -> None:
    """Logs and checkpoints, the same on every process."""
    last, tally = fit.step == fit.steps, fit.train.tally
    log, save = (fit.step % every == 0 or validated or last for every in (config.log_every, config.checkpoint_every))
    if not (log or save):
        return
    tally.share(fit.world)
    with fit.world.together():
        if fit.world.main and (log or tally.excessive):
            record: dict[str, Any] = {"step": fit.step, "epoch": fit.step / fit.per_epoch, **terms}
            record["lr"] = fit.optimiser.param_groups[0]["lr"]
            if validated:
                record |= {f"val_{k}": fit.curve[-1][k] for k in ("mpjpe", "pa_mpjpe")}
            folder.log(record, tally)
        if fit.world.main and (save or tally.excessive):
            state = {"config": config.fingerprint(), "broken": tally.state(), **fit.state()}
            if not all(v.isfinite().all() for v in state["model"].values()):
                raise Diverged("weights are not finite", fit.step - 1)
            folder.save(state)
    tally.check(folder.repair())


def _announce(config: FinetuneConfig, fit: Fit, how: str, bf16: bool) -> None:
    recipe = config.recipe
    print(
        f"fine-tuning {config.model} ({recipe.mode}, {fit.model.head.kind} head) on {len(fit.train)} hands of"
        f" {config.data}, {fit.model.spec.size} px, {fit.epochs} epochs, {fit.steps} steps,"
        f" {'bf16' if bf16 else 'fp32'}, {fit.world.size} process{'es' if fit.world.size > 1 else ''}"
        + (f", resumed at step {fit.step}" if fit.step else "")
        + f"\nvalidation: {len(fit.validation)} hands ({how})",
        flush=True,
    )


def _record(config: FinetuneConfig, fit: Fit, how: str, best: dict[str, float]) -> dict[str, Any]:
    training = {"model": config.model, "init": config.init, "data": config.data, "hands": len(fit.train)}
    training |= {"labels": config.labels, "preset": config.preset, "seed": config.seed, "epochs": fit.epochs}
    return {
        "training": training | {"recipe": asdict(config.recipe)},
        "validation": {"data": how, "hands": len(fit.validation), **best},
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }


def _draw(path: Path, curve: list[dict[str, float]]) -> None:
    """The validation's errors by epoch (needs matplotlib)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots()
    for key, label in (("mpjpe", "MPJPE"), ("pa_mpjpe", "PA-MPJPE")):
        axes.plot([r["epoch"] for r in curve], [r[key] for r in curve], label=label)
    axes.set(xlabel="epoch", ylabel="validation error [mm]", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with checkpoint.replacing(path) as [figure]:
        fig.savefig(figure, dpi=120)
