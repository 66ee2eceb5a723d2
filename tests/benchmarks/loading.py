"""What loading delivers, against what pretraining takes: images a second.

The embedded set as it is, as a folder of JPEGs, and as shards that `data pack` wrote, is read in training's order by
one and by two worker processes, first batches left out. Against it stands what a resnet18 with the preset `o2` takes
from memory. Each uses all of the machine's cores while it is measured: say it of a machine that does nothing else.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from paired import Bar, Row, Settings, seconds
from PIL import Image
from tqdm import tqdm
from training import QUICK_MODEL, Pretraining

from ti_backbones import cli
from ti_backbones.data import ImageSet, open_data, read
from ti_backbones.data.order import StepSampler

WORKERS = (1, 2)
BARS = {("shards", 2): Bar(at_least=2)}


def loading(settings: Settings) -> Iterator[Row]:
    """Images a second of each form of the set; two workers on shards must reach twice what pretraining takes."""
    model, size, batch, span = (QUICK_MODEL, 32, 8, 0.2) if settings.quick else ("resnet18", 128, 64, 5)
    specs = write_sets(settings.folder / "sets", size)
    pretraining = Pretraining(settings, model, size, batch)
    pretraining()
    steps = 1 if settings.quick else max(round(span / seconds(pretraining, settings.device)), 1)
    forms = [(form, workers) for form in specs for workers in WORKERS]
    rates: dict = {form: [] for form in (*forms, "taken")}
    for i in tqdm(range(settings.pairs), desc="input", unit="round", leave=False):
        for form in list(rates) if i % 2 else list(rates)[::-1]:
            if form == "taken":
                rates[form].append(batch / seconds(pretraining, settings.device, steps))
            else:
                rates[form].append(loaded_per_s(specs[form[0]], size, form[1], span, batch))
    for form, workers in forms:
        what = f"loading {form}, {size} px, {workers} worker{'s' * (workers > 1)}"
        against = f"o2 pretraining of {model} takes, {settings.precision}, batch {batch}"
        values = rates[form, workers], rates["taken"]
        yield Row("input", what, against, "images/s", *values, BARS.get((form, workers)))


def write_sets(folder: Path, size: int) -> dict[str, str]:
    """The embedded images in each form, of the same size; gives their specs."""
    shards, images = f"shards:{folder}/shards", folder / "images"
    images.mkdir(parents=True)
    command("data", "pack", "embedded", "--out", folder / "shards", "--size", size, "--quality", 90)
    samples = open_data(shards)
    for i in range(len(samples)):
        Image.fromarray(samples[i].image).save(images / f"{i:06d}.jpg", quality=90)
    return {"shards": shards, "folder": f"folder:{images}", "embedded": "embedded"}


def command(*arguments) -> None:
    """A command of ours, silently."""
    with redirect_stdout(io.StringIO()):
        code = cli.main([str(a) for a in arguments])
    if code:
        sys.exit(code)


def loaded_per_s(spec: str, size: int, workers: int, span: float, batch: int) -> float:
    """Images a second that `read` gives, over at least `span` seconds."""
    samples = open_data(spec)
    sampler = StepSampler(len(samples), batch, 10**6, 0, 0, starts=getattr(samples, "starts", None))
    batches = read(ImageSet(samples, size), sampler, workers)
    for _ in range(2 * workers + 2):  # what was read ahead while the workers started
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < span:
        count += len(next(batches))
    return count / (time.perf_counter() - began)
