"""python -m ti_backbones.run SCRIPT [arguments]: run a program, unchanged, that knows timm but not this package.

timm has no plugins: a program sees the `ti_*` names once something has imported `ti_backbones`. Here that happens
before the program's first line; the rest is as `python SCRIPT` or `python -m MODULE` would have it.
"""

from __future__ import annotations

import functools
import importlib.util
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ti_backbones  # noqa: F401  (registers the ti_* names)

from .errors import InputError

PROGRAM = "python -m ti_backbones.run"
HELP = f"""usage: {PROGRAM} SCRIPT [arguments]
       {PROGRAM} -m MODULE [arguments]

Run a program that uses timm, with the ti_* models among timm's: its training script, say, with --model ti_resnet50.
Under torchrun: torchrun [options] -m ti_backbones.run SCRIPT [arguments].
"""


def prepare(arguments: Sequence[str]) -> Callable[[], object]:
    """Set `sys.argv` and `sys.path` as a program expects them.

    Args:
        arguments: the script's path, or `-m` and the module's name; then the program's own arguments.

    Returns:
        What runs the program as the main one.

    Raises:
        InputError: if there is no such program.
    """
    first, *rest = arguments
    if first == "-m" and rest:
        _search_first(Path.cwd())
        _require_module(rest[0])
        sys.argv = rest
        return functools.partial(runpy.run_module, rest[0], run_name="__main__", alter_sys=True)
    if Path(first).is_file():
        _search_first(Path(first).resolve().parent)
        sys.argv = [first, *rest]
        return functools.partial(runpy.run_path, first, run_name="__main__")
    raise InputError(f"no script '{first}': give the path of a Python file, or -m and a module's name")


def _search_first(folder: Path) -> None:
    """Make a folder the first that imports are looked for in, as Python does unless told otherwise (-P)."""
    if not sys.flags.safe_path:
        sys.path[0] = str(folder)


def _require_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent package is missing, or is none
        found = None
    if found is None:
        raise InputError(f"no module '{name}': install it, or give the path of a script")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program of the command line.

    Returns:
        0; 2 if there is no such program. A program that exits by itself, or fails, does so as it always does.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    try:
        program = prepare(arguments)
    except InputError as e:
        print(f"{PROGRAM}: error: {e}", file=sys.stderr)
        return 2
    program()
    return 0


if __name__ == "__main__":
    sys.exit(main())
