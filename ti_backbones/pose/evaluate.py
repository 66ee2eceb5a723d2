"""`ti-backbones evaluate`: a pose model's errors on a labelled set: table, JSON, figure, pictures, official files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..checkpoint import replacing, write_atomically
from ..data import open_data
from ..data.images import Selection
from ..distributed import fast_bf16, find_device
from ..errors import InputError, first_line
from . import metrics
from .data import load
from .model import load_pose_model
from .official import WRITERS, write_official
from .predictions import errors_over_rotation, predict_set
from .results import Results, evaluate_predictions, picture_sheet

RESULTS, EVALUATION = "results.json", "evaluation"


@dataclass
class EvaluateConfig:
    """Measure a pose model on labelled hands it was not trained on."""

    run: Path
    """a pose folder that finetune wrote"""
    data: str = "embedded?split=test"
    """labelled images: embedded, shards:PATH, dexycb:PATH, interhand:PATH, freihand:PATH, ho3d:PATH"""
    out: Path | None = None
    """folder for results.json, pck.png and hands.png; RUN/evaluation if empty"""
    against: Path | None = None
    """another pose folder that was evaluated on the same data, or a folder of its results: by how much this one is
    better, with an interval that takes the hands as independent, which the frames of a video are not"""
    official: bool = False
    """also write the file that the set's own evaluation script takes (DexYCB, FreiHAND, HO-3D, InterHand2.6M)"""
    angles: int = 0
    """measure also over so many in-plane rotations of the images, equally spaced"""
    angles_limit: int = 500
    """on at most so many images"""
    limit: int = 0
    """evaluate on the first so many images; 0: all"""
    mano: Path | None = None
    """your own MANO_RIGHT.pkl, for a model that gives MANO parameters"""
    precision: Literal["auto", "bf16", "fp32"] = "fp32"
    """of the encoder; auto: bf16 where the device has units for it"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, ..."""
    workers: int = 2
    """processes that decode images"""


def evaluate(config: EvaluateConfig) -> Results | None:
    """Evaluate and write the files.

    Returns:
        None for a split whose joints are not public, which only `official` goes with.

    Raises:
        InputError: for a model, data or option that cannot be used.
    """
    for name, least in (("angles", 0), ("angles_limit", 1), ("limit", 0), ("workers", 0)):
        if getattr(config, name) < least:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(config, name)}: it must be {least} or more")
    if config.official and (config.data.partition(":")[0] not in WRITERS or config.limit):
        raise InputError(f"--official goes with a whole split of {', '.join(WRITERS)}: leave it out")
    theirs = _results_of(config.against) if config.against else None
    import_module("matplotlib")  # now, not after minutes of work
    device = find_device(config.device)
    model = load_pose_model(config.run, config.mano).to(device)
    samples = open_data(config.data, "test")
    if config.limit:
        samples = Selection(samples, _first(len(samples), config.limit))
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device))
    out = config.out or config.run / EVALUATION
    predictions = predict_set(model, samples, config.workers, bf16, root_only=config.official)
    if config.official:
        print(f"wrote '{write_official(predictions, samples, config.data, out)}'")
        counts = metrics.counting(predictions.hands.tensors["valid"])
        if not counts.any():
            return None
        predictions = predictions.take(counts)
    results = evaluate_predictions(predictions, config.data)
    if config.angles:
        some = load(Selection(samples, _first(len(samples), config.angles_limit)), model.spec.size, config.workers)
        results.rotation = errors_over_rotation(model, some, config.angles, bf16)
    write_atomically(out / RESULTS, results.to_json().encode())
    with replacing(out / "pck.png") as [figure]:
        results.figure(figure)
    with replacing(out / "hands.png") as [picture]:
        picture_sheet(predictions, results, samples, model.spec.size).save(picture)
    if theirs is not None:  # what was computed is kept, whatever the others are
        results.compare(theirs)
        write_atomically(out / RESULTS, results.to_json().encode())
    return results


def _results_of(folder: Path) -> dict[str, Any]:
    """What an earlier evaluation wrote into a folder, or into a run's own."""
    path = next((p for p in (folder / RESULTS, folder / EVALUATION / RESULTS) if p.is_file()), folder / RESULTS)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"--against '{folder}' has no results ({first_line(e)}): run evaluate on it first") from e


def _first(length: int, limit: int) -> np.ndarray:
    return np.arange(min(length, limit))
