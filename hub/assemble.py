"""`python -m hub.assemble NAME`: a finished training, in half precision, with its proof, as a folder of hub/models.

Everything that the card says is measured on what is stored there, or copied from what the recipe's other commands
measured. It is the last command of every recipe.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ti_backbones.backbone import CARD_FILE, TIBackbone, read_config
from ti_backbones.checkpoint import write_atomically, write_files
from ti_backbones.data import load_all, open_data
from ti_backbones.errors import InputError
from ti_backbones.inspection import InspectConfig, inspect
from ti_backbones.model_folder import COMPARISON, LOADED, LOG_FILE, VIEWS_FILE, read_model_folder, read_recipe

from .command import command
from .rounding import rounded

HERE = Path(__file__).resolve().parent
BUNDLED = HERE.parent / "ti_backbones" / "weights"
FEATURES, GAIN = 1e-3, 0.01  # what half precision may change: relative L2 of the features, and the gain


@dataclass
class AssembleConfig:
    """Put a finished training and what was measured of it together, as a folder of hub/models."""

    name: tyro.conf.Positional[str]
    """ti_<arch>.<tag>: the folder to write, and the recipe"""
    run: Path
    """folder of the training"""
    data: str
    """held-out images to certify on"""
    photos: str
    """real photographs to certify on, too"""
    comparison: Path
    """folder of a comparison that has the model among its rows"""
    speed: Path
    """JSON of the benchmark of inference"""
    bundle: bool = False
    """put the model into the package, too"""
    models: Path = HERE / "models"
    """where the folder is written"""
    recipes: Path = HERE / "recipes"
    """folder of the recipes"""
    package: Path = BUNDLED
    """where the package's own models are"""


def assemble(config: AssembleConfig) -> Path:
    """Write the folder.

    Returns:
        the folder.

    Raises:
        InputError: for a training, a measurement or a recipe that is not there or does not fit.
    """
    recipe_file = config.recipes / f"{config.name}.toml"
    read_recipe(recipe_file)  # or it says what is wrong, before minutes of work
    expected = f"ti_{read_config(config.run)['architecture']}"
    if config.name.partition(".")[0] != expected:
        raise InputError(f"'{config.run}' holds a {expected}: call it {expected}.TAG, not '{config.name}'")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / config.name
        _fill(folder, config, recipe_file)
        done, beside = config.models / config.name, config.models / f".{config.name}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder, beside)
        shutil.rmtree(done, ignore_errors=True)
        beside.rename(done)
    size = sum(p.stat().st_size for p in done.rglob("*") if p.is_file())
    print(f"wrote '{done}', {size / 1e6:.1f} MB")
    if config.bundle:
        write_files(config.package / config.name, {f: (done / f).read_bytes() for f in LOADED})
    return done


def _fill(folder: Path, config: AssembleConfig, recipe_file: Path) -> None:
    """Everything of the folder, in its place or another."""
    recipe = read_recipe(recipe_file)
    trained = TIBackbone.from_pretrained(config.run).eval()
    rounded(trained, _images("embedded?split=train", trained, 256)).save_pretrained(folder, half=True)
    for data, file, said in ((config.data, "certificate", recipe.test_data), (config.photos, "photos", recipe.photos)):
        figure = folder / f"{file}.png" if file == "certificate" else None
        inspect(InspectConfig(str(folder), data, json=folder / f"{file}.json", figure=figure))
        _reword(folder / f"{file}.json", data=said)
    _check_rounding(folder, config, trained)
    training = config.run / "training"
    write_atomically(folder / LOG_FILE, _read(training / LOG_FILE))
    write_atomically(folder / VIEWS_FILE, _read(max(training.glob("views-*.png"), default=training / VIEWS_FILE)))
    there = [f for f in COMPARISON if f == COMPARISON[0] or (config.comparison / f).is_file()]
    write_files(folder / "comparison", {f: _read(config.comparison / f) for f in there})
    title = json.loads(_read(folder / "comparison" / COMPARISON[0]))["title"]
    _reword(folder / "comparison" / COMPARISON[0], title=f"{title.rpartition(' (')[0]} ({recipe.test_data})")
    write_atomically(folder / "speed.json", _read(config.speed))
    public = read_model_folder(folder, f"local-dir:hub/models/{config.name}", recipe_file=recipe_file)
    card = public.files[CARD_FILE]
    assert isinstance(card, bytes)
    write_atomically(folder / CARD_FILE, card)


@torch.no_grad()
def _check_rounding(folder: Path, config: AssembleConfig, trained: TIBackbone) -> None:
    """That half precision changes neither features nor gain.

    Raises:
        InputError: if it does, or the training was certified on other images.
    """
    gain, before = (json.loads(_read(p / "certificate.json"))["gain"] for p in (folder, config.run))
    images = _images(config.data, trained, 64)
    z = trained(images)
    error = float((TIBackbone.from_pretrained(folder).eval()(images) - z).norm() / z.norm())
    print(f"in half precision: features differ by {error:.1e}, the gain is {gain:.4f} and was {before:.4f}")
    if not (error <= FEATURES and abs(gain - before) <= GAIN * max(1.0, abs(before))):
        raise InputError(
            f"'{config.run}' is not what half precision keeps (features differ by {error:.1e}, the gain is {gain:.3f}"
            f" on '{config.data}' and was {before:.3f}): certify both on the same images, or look for huge weights"
        )


def _images(data: str, ti: TIBackbone, count: int) -> torch.Tensor:
    """So many, held-out ones unless `data` says otherwise, as large as it was trained on: (N, 3, S, S) in [0, 1]."""
    return load_all(open_data(data, "test"), ti.metadata["training"]["size"], count).images.float() / 255


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"'{path}' cannot be read ({e.strerror}): run the recipe's commands before this one") from e


def _reword(path: Path, **words: Any) -> None:
    """Put a recipe's words in the place of a path that nobody else has."""
    value = json.loads(path.read_text()) | {k: v for k, v in words.items() if v}
    write_atomically(path, json.dumps(value, indent=2).encode() + b"\n")


def main() -> int:
    return command("assemble", lambda: assemble(tyro.cli(AssembleConfig, prog="python -m hub.assemble")))


if __name__ == "__main__":
    sys.exit(main())
