"""What a second process brings: images a second of the package's own command under torchrun, one thread each."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch
from paired import Bar, Row, Settings
from tqdm import tqdm
from training import QUICK_MODEL

BAR = Bar(at_least=1.85)
WARM = 2  # steps left out


def processes(settings: Settings) -> Iterator[Row]:
    """Two processes against one, the same batch for each process."""
    if settings.device.type == "cuda" and torch.cuda.device_count() < 2:
        tqdm.write("processes: left out, since there is one GPU")
        return
    model, size, share, steps = (QUICK_MODEL, 32, 4, 5) if settings.quick else ("resnet18", 128, 32, 14)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for i in tqdm(range(settings.pairs), desc="processes", unit="pair", leave=False):
        for count in (1, 2) if i % 2 else (2, 1):
            rates[count].append(_images_per_s(settings, count, model, size, share, steps))
    what = f"2 processes, 1 thread each, {model}, {size} px, {share} images each, {settings.precision}"
    yield Row("processes", what, f"1 process, 1 thread, {share} images", "images/s", rates[2], rates[1], BAR)


def _images_per_s(settings: Settings, count: int, model: str, size: int, share: int, steps: int) -> float:
    """Median over the steps of a short pretraining, from its log."""
    out = settings.folder / "run"
    start = [sys.executable, "-m"]
    if count > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    data = ["--data", f"folder:{settings.images}", "--size", size, "--batch", share * count]
    options = ["--model", model, "--epochs", steps, "--log-every", 1, "--pictures-every", 0]
    command = [*start, "ti_backbones.cli", "pretrain", *data, *options, "--device", settings.device.type, "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"processes: the command ended with {done.returncode}: {done.stderr[-2000:]}")
        lines = (out / "training" / "log.jsonl").read_text().splitlines()
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return statistics.median(json.loads(line)["images_per_s"] for line in lines[WARM:])
