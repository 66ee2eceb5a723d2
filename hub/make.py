"""`python -m hub.make NAME`: make a published model again, from the renderer's seed to its folder.

It runs the commands of hub/recipes/NAME.toml one after the other, from the checkout's root. Each of them goes on where
it was stopped, and so does this. What they render and train lies in work/, which git ignores.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from ti_backbones.errors import InputError
from ti_backbones.model_folder import read_recipe

from .command import command

HERE = Path(__file__).resolve().parent


@dataclass
class MakeConfig:
    """Make a published model again, from the renderer's seed to its folder; run it again to go on."""

    name: tyro.conf.Positional[str]
    """a recipe of hub/recipes, such as ti_resnet18.synthands50k"""
    recipes: Path = HERE / "recipes"
    """folder of the recipes"""
    dry_run: bool = False
    """print the commands, and run nothing"""


def make(config: MakeConfig) -> None:
    """Run a recipe's commands.

    Raises:
        InputError: for a recipe that there is not, or a command that fails.
    """
    path = config.recipes / f"{config.name}.toml"
    known = ", ".join(sorted(p.stem for p in config.recipes.glob("*.toml"))) or "none"
    if not path.is_file():
        raise InputError(f"no recipe '{config.name}' in '{config.recipes}': there are {known}")
    commands = read_recipe(path).commands
    if not commands:
        raise InputError(f"recipe '{path}' has no commands: add them")
    # the console scripts of this environment first: `ti-backbones` and `python` are its own
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for number, line in enumerate(commands, 1):
        print(f"[{number}/{len(commands)}] {line}", flush=True)
        if config.dry_run:
            continue
        began = time.perf_counter()
        code = subprocess.run(shlex.split(line), cwd=HERE.parent, env=environment, check=False).returncode
        if code:
            raise InputError(
                f"command {number} of '{config.name}' ended with exit code {code}: mend it, run this again"
            )
        print(f"[{number}/{len(commands)}] took {(time.perf_counter() - began) / 60:.1f} min", flush=True)


def main() -> int:
    return command("make", lambda: make(tyro.cli(MakeConfig, prog="python -m hub.make")))


if __name__ == "__main__":
    sys.exit(main())
