"""Peak memory of an o2 step against that of its encoder alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from paired import Bar, Row, Run, Settings
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from training import STEP_IMAGES, EncoderStep, Pretraining, cases

BAR = Bar(at_most=1.3)


def memory(settings: Settings) -> Iterator[Row]:
    """On CUDA what the allocator says; else the peak of the tensors' memory, and not the process's."""
    for model, size, count in cases(settings):
        count = count if settings.quick else STEP_IMAGES
        pretraining = Pretraining(settings, model, size, count)
        objective, views = pretraining.run.objective, pretraining.views().cpu()
        ours = _peak(pretraining, objective, pretraining.run.optimiser, [pretraining.images], settings)
        del pretraining, objective
        encoder = EncoderStep(settings, model, views.to(settings.device))
        theirs = _peak(encoder, encoder.encoder, encoder.optimiser, [encoder.views], settings)
        del encoder
        what = f"o2 step, {model}, {size} px, {count} images, {settings.precision}"
        yield Row("memory", what, "encoder forward, backward, AdamW on its views", "bytes", [ours], [theirs], BAR)


def _peak(step: Run, module: nn.Module, optimiser: torch.optim.Optimizer, given: list[Tensor], s: Settings) -> float:
    """Bytes at the peak of a step, the weights, the optimiser's state and the given tensors included."""
    for _ in range(2):
        step()
    gc.collect()  # what was measured before must not count
    if s.device.type == "cuda":
        torch.cuda.synchronize(s.device)
        torch.cuda.reset_peak_memory_stats(s.device)
        step()
        torch.cuda.synchronize(s.device)
        return float(torch.cuda.max_memory_allocated(s.device))
    state = [v for values in optimiser.state.values() for v in values.values() if isinstance(v, Tensor)]
    storages = [t.untyped_storage() for t in (*module.state_dict().values(), *state, *given)]
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}  # views share theirs
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    profiler: Any = record.profiler
    changes = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    running = accumulate(e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns()))
    return float(sum(held.values()) + max(running))
