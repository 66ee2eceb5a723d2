"""Published weights: the table of what is published, where model folders are looked for, and what they must hold.

A model folder holds `model.safetensors` and `config.json` in timm's format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .download import WeightsError, fetch, sha256

HUB_VARIABLE = "TI_BACKBONES_HUB"
WEIGHTS_FILE = "model.safetensors"
TABLE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedWeights:
    """One model folder on the Hugging Face Hub.

    Attributes:
        repo_id: "organisation/name".
        revision: the commit, in full: a branch or a tag may move.
        sha256: file name -> digest, of every file that is loaded.
        license: SPDX identifier.
        metrics: what the model card reports, by name.
    """

    repo_id: str
    revision: str
    sha256: Mapping[str, str]
    license: str
    metrics: Mapping[str, float] = field(default_factory=dict)


# "ti_<arch>.<tag>" -> where it is. The first tag of an architecture is its default. `hub.publish_all` writes the file.
PUBLISHED = {name: PublishedWeights(**entry) for name, entry in json.loads(TABLE.read_text()).items()}


def published_tags(architecture: str) -> Iterator[tuple[str, PublishedWeights]]:
    """(tag, entry) of every published model of a `ti_<arch>`; the tag is "" for one without."""
    for full_name, entry in PUBLISHED.items():
        name, _, tag = full_name.partition(".")
        if name == architecture:
            yield tag, entry


def local_models() -> dict[str, Path]:
    """Name ("ti_<arch>" or "ti_<arch>.<tag>") -> model folder, of every one below the `search_folders`."""
    found: dict[str, Path] = {}
    for place in search_folders():
        for folder in sorted(place.glob("ti_*")) if place.is_dir() else ():
            if (folder / WEIGHTS_FILE).is_file():
                found.setdefault(folder.name, folder)
    return found


def default_tag(architecture: str) -> str:
    """The tag that a `ti_<arch>` without one stands for: the first published, else the first local; "" if none."""
    tags = [tag for tag, _ in published_tags(architecture)]
    tags += [name.partition(".")[2] for name in local_models() if name.partition(".")[0] == architecture]
    return "" if "" in tags or not tags else tags[0]


def search_folders() -> list[Path]:
    """Where model folders are looked for, in this order: the package, the checkout it runs from, $TI_BACKBONES_HUB."""
    package = Path(__file__).resolve().parent
    folders = [package / "weights"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "hub" / "models")
    if os.environ.get(HUB_VARIABLE):
        folders.append(Path(os.environ[HUB_VARIABLE]).expanduser())
    return folders


def find_weights(name: str, cache_dir: str | Path | None = None) -> Path | None:
    """The model folder of a `ti_*` name: a local one, else the published one, downloaded; None if there is neither.

    Args:
        name: "ti_<arch>" or "ti_<arch>.<tag>".
        cache_dir: where the Hugging Face Hub's files are kept, if not in the usual place.

    Raises:
        WeightsError: if the published one cannot be had, or is not what was published.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):  # a path, say: it must not be looked for below the folders
        return None
    default = "" if tag else default_tag(architecture)
    names = [name, f"{name}.{default}"] if default else [name]
    for candidate in (folder / n for folder in search_folders() for n in names):
        if candidate.is_dir():
            return candidate
    published = PUBLISHED.get(names[-1])
    return _download(names[-1], published, cache_dir) if published else None


def require_weights(name: str, tag: str | None, cache_dir: str | Path | None) -> Path:
    """find_weights, or an error that says where they were looked for."""
    folder = find_weights(f"{name}.{tag}" if tag else name, cache_dir)
    if folder is not None:
        return folder
    looked = ", ".join(f"'{f}'" for f in search_folders())
    tags = ", ".join(tag for tag, _ in published_tags(name)) or "none"
    full_name = f"{name}.{tag}" if tag else name
    problem = f"Invalid pretrained tag ({tag}) for {name}" if tag else f"No pretrained weights exist for {name}"
    raise WeightsError(
        f"{problem}: published tags: {tags}; looked in {looked}. Use pretrained=False, set {HUB_VARIABLE} to a folder"
        f" that holds '{full_name}', or make them: ti-backbones pretrain --model {name.removeprefix('ti_')}"
    )


def _download(name: str, published: PublishedWeights, cache_dir: str | Path | None) -> Path:
    """Fetch a published model folder at its pinned revision and check every file's sha256."""
    paths = fetch(name, published.repo_id, published.revision, list(published.sha256), cache_dir)
    for path, (file, digest) in zip(paths, published.sha256.items(), strict=True):
        if sha256(path) != digest:
            raise WeightsError(
                f"'{file}' of '{name}' ({published.repo_id} at {published.revision}) is not what was published"
                f" (sha256): delete '{path.resolve()}' and load it again"
            )
    return paths[0].parent


def check_folder(folder: Path, base: str, source: str = "") -> nn.Module:
    """Check that a model folder holds every weight of an architecture, in its shape, and nothing else.

    Args:
        folder: holds config.json (timm's format) and model.safetensors.
        base: timm's own name of the architecture.
        source: what the folder was fetched from, for messages.

    Returns:
        The model that the folder describes, on the meta device.

    Raises:
        WeightsError: naming the folder and what does not fit.
    """
    from .backbone import read_config

    architecture = read_config(folder)["architecture"]
    of = f"weights of '{source}': " if source else ""
    if architecture != base:
        raise WeightsError(f"{of}'{folder}' holds architecture '{architecture}', not '{base}': take ti_{architecture}")
    model = on_meta(folder)
    expected = {k: list(v.shape) for k, v in model.state_dict().items()}
    found = _shapes(folder / WEIGHTS_FILE, of)
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise WeightsError(
                f"{of}'{folder / WEIGHTS_FILE}' does not hold {base}: '{key}' is {found.get(key, 'missing')}, where the"
                f" model has {expected.get(key, 'none')}; save the model again"
            )
    return model


def on_meta(folder: Path, **kwargs: Any) -> nn.Module:
    """The model that a folder's config describes, without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(f"local-dir:{folder}", **kwargs)


def _shapes(path: Path, of: str = "") -> dict[str, list[int]]:
    """Name -> shape of every tensor in a safetensors file; only its header is read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as e:
        raise WeightsError(
            f"{of}'{path}' cannot be read as safetensors ({e}): a model folder needs it whole, and no pickle is read"
        ) from e
