"""A `ti_*` model against the plain timm model: the same network, and so the same speed, within the noise.

The noise is that of a second plain model against the first, measured in the same way.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from paired import Bar, Row, Run, Settings, measure
from torch import Tensor, nn

import ti_backbones  # noqa: F401  (registers the names)


def inference(settings: Settings) -> Iterator[Row]:
    """Forward passes in eval mode: eager, compiled, and in ONNX Runtime."""
    model, batch, size = ("test_resnet", 2, 64) if settings.quick else (settings.model, 8, 224)
    x = torch.rand(batch, 3, size, size)
    options: list[dict[str, Any]] = [{"model_name": f"ti_{model}"}, *[{"model_name": model, "num_classes": 0}] * 2]
    models = [timm.create_model(**o).eval() for o in options]
    for other in models[1:]:
        other.load_state_dict(models[0].state_dict())  # the same numbers: speed may depend on them
    folder, exported = settings.folder, []
    for i, m in enumerate(models):
        exported.append(_in_onnxruntime(m, x, folder / f"{i}.onnx"))
    placed = [m.to(settings.device) for m in models]
    on_gpu = settings.device.type == "cuda"
    if on_gpu:
        placed = [m.to(memory_format=torch.channels_last) for m in placed]  # pyright: ignore[reportCallIssue]
        x = x.to(settings.device, memory_format=torch.channels_last)
    compiled = [torch.compile(m) for m in placed]
    how = f"{settings.precision if on_gpu else 'fp32'}, batch {batch}, {size} px"
    yield _row("eager", how, model, [_in_torch(m, x, settings, on_gpu) for m in placed], settings)
    yield _row("torch.compile", how, model, [_in_torch(m, x, settings, on_gpu) for m in compiled], settings)
    yield _row("ONNX Runtime", f"fp32, CPU, batch {batch}, {size} px", model, exported, settings)


def _row(way: str, how: str, model: str, runs: list[Run], settings: Settings) -> Row:
    """ti_model, model, and model again: each in its turn."""
    ours, theirs, again = measure(runs, settings, f"inference: {way}")
    noise = [a / b for a, b in zip(again, theirs, strict=True)]
    widest = max(max(r, 1 / r) for r in noise)
    extra = {"noise": {"spread": [min(noise), max(noise)], "median": statistics.median(noise), "values": again}}
    against = f"{model} (against itself: {min(noise):.3f} to {max(noise):.3f})"
    bar = Bar(at_least=1 / widest, at_most=widest)
    return Row("inference", f"ti_{model}, {way}, {how}", against, "s", ours, theirs, bar, extra)


def _in_torch(model: Any, x: Tensor, settings: Settings, autocast: bool) -> Run:
    def run() -> None:
        with torch.no_grad(), settings.autocast(autocast):
            model(x)

    return run


def _in_onnxruntime(model: nn.Module, x: Tensor, path: Path) -> Run:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (x,), path, input_names=["images"], dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    numbers = x.numpy()
    return lambda: session.run(None, {"images": numbers})
