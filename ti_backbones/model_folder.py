"""What of a model folder is published: which files, in which form, and what is refused.

A published folder holds the model, its card, what was measured and how it was made; no local path, no image of a data
set, no pickle, and nothing that nobody expects there.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .backbone import CARD_FILE, CONFIG_FILE, TRANSFORMER_FILE, TIBackbone, read_config
from .errors import InputError, first_line
from .model_card import Measured, Recipe, card
from .published import WEIGHTS_FILE

RECIPE_FILE = "recipe.toml"
WEIGHTS = (WEIGHTS_FILE, TRANSFORMER_FILE, "pose_head.safetensors")
JSON = (CONFIG_FILE, "certificate.json", "photos.json", "pose.json", "results.json", "report.json", "speed.json")
EVALUATION = ("results.json", "pck.png")  # of each folder evaluation*
COMPARISON = ("report.json", "bars.png", "curves.png")  # of the folder comparison
LOG_FILE = "log.jsonl"
VIEWS_FILE = "views.png"  # a grid of drawn latents, where its images may be published
MEASURED = ("certificate.json", "certificate.png", "photos.json", "speed.json", LOG_FILE, "pose.json")
TOP = (*WEIGHTS, CONFIG_FILE, *MEASURED, VIEWS_FILE, RECIPE_FILE, CARD_FILE)
LOADED = (CONFIG_FILE, WEIGHTS_FILE, TRANSFORMER_FILE)
# what training and evaluating leave beside a model, and is not published: pictures of hands belong to their sets
LEFT_OUT = ("training", "validation.json", "validation.png", ".cache", ".gitattributes")
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
KINDS = ("folder", "shards", "dexycb", "interhand", "freihand", "ho3d")


@dataclass(frozen=True)
class PublicFolder:
    """A model folder as it is published.

    Attributes:
        name: the folder's. files: path in the repository -> content, or where it is.
        left_out: files and folders that stay here. license: of the weights. metrics: the card's, by name.
    """

    name: str
    files: dict[str, bytes | Path]
    left_out: list[str]
    license: str
    metrics: dict[str, float]


def read_model_folder(
    folder: Path, source: str, license: str = "", recipe_file: Path | None = None, name: str = ""
) -> PublicFolder:
    """Check a model folder and give what of it is published, the card made anew.

    Args:
        folder: see the module. source: what the card says to load, "hf-hub:org/name".
        license: of the weights; the recipe's if "". recipe_file: `recipe.toml` of the folder if None.
        name: what the model is called; the folder's name if "".

    Raises:
        InputError: for files that do not belong there, a model that does not load, or a licence that is not stated.
    """
    if not folder.is_dir():
        raise InputError(f"no model folder '{folder}': give one that pretrain, finetune or save_pretrained wrote")
    paths, left_out = _list(folder)
    config = read_config(folder)
    for file in LOADED:
        if file not in paths:
            raise InputError(f"'{folder}' has no {file}: give a folder that save_pretrained wrote")
    if config["architecture"].startswith("ti_") or "num_classes" in config.get("model_args", {}):
        raise InputError(f"'{folder / CONFIG_FILE}' does not load without this package: save the model again")
    TIBackbone.from_pretrained(folder)  # whole, and of one architecture
    path = recipe_file or paths.get(RECIPE_FILE)
    recipe = read_recipe(path) if path else None
    license = license or (recipe.license if recipe else "")
    if not license:
        raise InputError(f"the licence of the weights in '{folder}' is not stated: add --license, or a {RECIPE_FILE}")
    files: dict[str, bytes | Path] = {}
    for file, path in paths.items():
        files[file] = _public_json(path) if path.name in JSON else path
    if recipe_file is not None:
        files[RECIPE_FILE] = recipe_file
    measured = Measured(
        name=name or folder.resolve().name,
        source=source,
        license=license,
        recipe=recipe,
        certificate=_parsed(files, "certificate.json"),
        photos=_parsed(files, "photos.json"),
        comparison=_parsed(files, "comparison/report.json"),
        speed=_parsed(files, "speed.json").get("rows", []),
        last=_last(paths.get(LOG_FILE)),
        results={str(Path(f).parent): _parsed(files, f) for f in files if f.endswith("/results.json")},
        files=tuple(files),
    )
    ours = _parsed(files, CONFIG_FILE)["ti_backbones"]
    try:
        files[CARD_FILE] = card(config["architecture"], ours, measured).encode()
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"no card can be made of '{folder}' ({first_line(e)}): measure the model again") from e
    for file, content in files.items():
        if not file.endswith((".safetensors", ".png")):
            _refuse_paths(folder, file, content if isinstance(content, bytes) else content.read_bytes())
    return PublicFolder(measured.name, files, left_out, license, _metrics(ours, measured))


def _list(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files that are published, by their path in the repository, and what is left out."""
    paths: dict[str, Path] = {}
    left_out = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        top, _, rest = name.partition("/")
        if any(part in LEFT_OUT for part in name.split("/")):
            left_out += [name] if path.name in LEFT_OUT else []
        elif path.is_dir() and not rest and _inside(top):
            continue
        elif _inside(top) and rest not in ("", *_inside(top)):
            left_out.append(name)
        elif path.suffix in PICKLES:
            raise InputError(f"'{path}' may run code when it is loaded: publish safetensors only, and move it away")
        elif name in TOP or (rest and _inside(top)):
            paths[name] = path
        else:
            raise InputError(f"'{path}' does not belong into a published model: move it away")
    for name, path in paths.items():
        _check_content(name, path)
    return paths, left_out


def _inside(folder: str) -> tuple[str, ...]:
    """What is published of a folder inside the model's."""
    return EVALUATION if folder.startswith("evaluation") else COMPARISON if folder == "comparison" else ()


def _check_content(name: str, path: Path) -> None:
    """That a file is what its name says."""
    problem = ""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix == ".png" and path.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
            problem = "no PNG"
        elif path.suffix not in (".safetensors", ".png"):
            path.read_text(encoding="utf-8")
    except (OSError, SafetensorError, UnicodeDecodeError) as e:
        problem = first_line(e)
    if problem:
        raise InputError(f"'{path}' is not what its name says ({problem}): make {name} again, and publish no pickle")


def read_recipe(path: Path) -> Recipe:
    """A recipe.toml.

    Raises:
        InputError: if it cannot be read, names no licence, or says something that no recipe says.
    """
    known = [f.name for f in fields(Recipe)]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        commands = values.get("commands", [])
        if not isinstance(commands, list) or not all(isinstance(v, str) for k, v in values.items() if k != "commands"):
            raise TypeError("commands is a list of texts, the rest are texts")
        return Recipe(**values)
    except (OSError, TypeError, ValueError) as e:
        raise InputError(f"recipe '{path}' cannot be used ({first_line(e)}): it holds {', '.join(known)}") from e


def _public_json(path: Path) -> bytes:
    """A JSON file without local paths, and of results.json the summary: samples are named after files of the set."""
    try:
        value = json.loads(path.read_text())
    except ValueError as e:
        raise InputError(f"'{path}' is no JSON ({first_line(e)}): make it again") from e
    if path.name == "results.json" and isinstance(value, dict):
        value.pop("samples", None)
    return json.dumps(without_paths(value), indent=2).encode() + b"\n"


def without_paths(value: Any) -> Any:
    """JSON values with local paths taken out of their texts.

    >>> without_paths({"data": "folder:/home/me/hands", "init": "runs/a/model.safetensors"})
    {'data': 'folder', 'init': 'model.safetensors'}
    """
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_paths(v) for v in value]
    if not isinstance(value, str) or value.startswith(("hf-hub:", "https://")):
        return value
    # a spec: its kind and options; its path, which may have spaces, ends where the options or the sentence do
    spec = rf"\b({'|'.join(KINDS)}):.*?((?:\?[\w=/&.+-]*)?(?: kept out of training)?)$"
    stripped = re.sub(spec, r"\1\2", value)
    if stripped != value:
        return stripped
    if re.match(r"(~|\.{0,2}/|[A-Za-z]:\\)", value) or (re.search(r"[/\\]", value) and not re.search(r"[\s?]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return re.sub(r"(?<!\S)(?:~|\.{0,2})/\S*?([^/\s]+)(?=\s|$)", r"\1", value)


def _refuse_paths(folder: Path, file: str, content: bytes) -> None:
    """What is left of local paths, in files that people write, is refused."""
    private = [str(Path.home()) + "/", str(folder.resolve().parent) + "/", "/home/", "/Users/", "C:\\Users"]
    found = next((p for p in private if len(p) > 3 and p in content.decode(errors="replace")), None)
    if found:
        raise InputError(f"'{file}' of '{folder}' names the local path '{found}': take it out")


def _last(log: Path | None) -> dict[str, Any]:
    """The last record of a training's log."""
    try:
        return json.loads(log.read_text().splitlines()[-1]) if log else {}
    except (IndexError, ValueError) as e:
        raise InputError(f"'{log}' is no log ({first_line(e)}): take that of the training") from e


def _parsed(files: dict[str, bytes | Path], name: str) -> dict[str, Any]:
    content = files.get(name)
    return json.loads(content) if isinstance(content, bytes) else {}


def _metrics(ours: dict[str, Any], measured: Measured) -> dict[str, float]:
    """What the table of published weights says of a model."""
    certificate = {**ours.get("certificate", {}), **measured.certificate}
    metrics = {key: certificate[key] for key in ("gain", "moving_share") if certificate.get(key) is not None}
    for result in measured.results.values():
        kinds = (("MPJPE", "root"), ("PA-MPJPE", "proper"))
        metrics |= {f"{metric} [mm], {result['data']}": result["mpjpe"][key] for metric, key in kinds}
    return {name: round(value, 4) for name, value in metrics.items()}
