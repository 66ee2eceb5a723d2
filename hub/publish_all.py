"""`python -m hub.publish_all`: publish every folder of hub/models, and write the table of published weights.

Run it in a checkout, with a token of the Hugging Face Hub (`hf auth login` or HF_TOKEN); commit the table afterwards.
Each folder hub/models/ti_<arch>[.<tag>] goes to NAMESPACE/<folder's name>, with hub/recipes/<folder's name>.toml.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from ti_backbones import __version__
from ti_backbones.backbone import read_config
from ti_backbones.checkpoint import write_atomically
from ti_backbones.download import explain, why_unreachable
from ti_backbones.errors import InputError
from ti_backbones.hub import Publication, PublishConfig, publish
from ti_backbones.published import TABLE

from .command import command

HERE = Path(__file__).resolve().parent


@dataclass
class PublishAllConfig:
    """Publish every model folder of the checkout on the Hugging Face Hub, and write the table of published weights."""

    namespace: str = ""
    """organisation or user to publish under; the token's own user if empty"""
    private: bool = False
    """make new repositories private"""
    tag: str = f"v{__version__}"
    """tag every commit with this name"""
    dry_run: bool = False
    """show what would go, and send nothing"""
    models: Path = HERE / "models"
    """folder of model folders"""
    recipes: Path = HERE / "recipes"
    """folder of their recipes"""
    table: Path = TABLE
    """table to write"""


def publish_all(config: PublishAllConfig) -> list[Publication]:
    """Publish every model folder; the table is written after each, so that an interruption loses nothing.

    Raises:
        InputError: if there is none, or one cannot be published.
    """
    folders = sorted(p for p in config.models.glob("*") if p.is_dir())
    if not folders:
        raise InputError(f"no model folder in '{config.models}': there is nothing to publish")
    for folder in folders:
        expected = f"ti_{read_config(folder)['architecture']}"
        if folder.name.partition(".")[0] != expected:
            raise InputError(f"'{folder}' holds a {expected}: call it {expected}, or {expected}.TAG")
    namespace = config.namespace or _own_name()
    publications = []
    for folder in tqdm(folders, desc="publishing", unit="model", delay=2):
        recipe = config.recipes / f"{folder.name}.toml"
        given = recipe if recipe.is_file() else None
        done = publish(
            PublishConfig(
                folder,
                f"{namespace}/{folder.name}",
                private=config.private,
                tag=config.tag,
                recipe=given,
                dry_run=config.dry_run,
            )
        )
        tqdm.write(f"{folder.name}\n{done.text()}")
        publications.append(done)
        if not config.dry_run:
            _enter(config.table, folder.name, done)
    return publications


def _own_name() -> str:
    """The user whose token it is."""
    from huggingface_hub import HfApi

    if unreachable := why_unreachable():
        raise InputError(f"no namespace to publish under: {unreachable}: give --namespace, or connect")
    try:
        return HfApi().whoami()["name"]
    except Exception as e:  # no token, or what the Hub says against it
        raise InputError(f"no namespace to publish under: {explain(e, '')}") from e


def _enter(path: Path, name: str, done: Publication) -> None:
    """Write one entry of the table; the others stay."""
    table = json.loads(path.read_text()) if path.is_file() else {}
    table[name] = asdict(done.table)
    write_atomically(path, json.dumps(table, indent=2).encode() + b"\n")


def main() -> int:
    return command("publish_all", lambda: publish_all(tyro.cli(PublishAllConfig, prog="python -m hub.publish_all")))


if __name__ == "__main__":
    sys.exit(main())
