"""`python -m hub.readme`: the README's tables and first figure, made of the committed results: they cannot drift.

Each stands between `<!-- NAME: made by python -m hub.readme -->` and `<!-- /NAME -->`. With --check nothing is written,
and exit code 1 says that the README is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ti_backbones.checkpoint import write_atomically
from ti_backbones.compare.report import shares_of
from ti_backbones.errors import InputError

from .overview import errors, figure, is_drawn, models, table

ROOT = Path(__file__).resolve().parent.parent
COMPARISON = ROOT / "hub" / "results" / "comparison" / "report.json"
HEADS = {"": "MLP", "articulated": "articulated", "equivariant": "equivariant", "latent": "MLP, on turned latents"}


def comparison(report: dict[str, Any]) -> str:
    """A comparison's headline numbers in Markdown."""
    shares = shares_of(report["rows"])
    middle = shares[len(shares) // 2]
    header = ["pretraining", "head", *(f"{share} of the labels" for share in shares)]
    header += [f"worst less best angle, {middle}", f"epochs to scratch's error, {middle}", "gain"]
    lines = [header, ["---"] * len(header)]
    for row in (r for r in report["rows"] if r["certificate"]):  # else it was only tried
        method, _, variant = row["name"].partition(", ")
        of = row["finetuning"].get(middle)
        line = [method, HEADS[variant], *(errors(row["finetuning"].get(share)) for share in shares)]
        line += [errors(of and of["spread"]), _epochs(of), f"{row['certificate']['gain']:.2f}"]
        lines.append(line)
    mean = report["reference"]
    lines.append(["none: the mean training hand, laid on the answer", "", f"PA {mean['hand_pa_mpjpe']:.1f}"])
    lines[-1] += [""] * (len(header) - len(lines[-1]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _epochs(of: dict[str, Any] | None) -> str:
    if not of or "target" not in of:
        return ""
    reached = of["epochs_to_target"]
    return "never" if reached is None else f"{reached:g} of {of['curve']['epoch'][-1]:g}"


def hosts() -> str:
    """The table of programs that run a `ti_*` model, see tests/hosts."""
    sys.path.insert(0, str(ROOT / "tests" / "hosts"))
    matrix = import_module("matrix")
    return matrix.table(json.loads(matrix.RESULTS.read_text()))


BLOCKS: dict[str, Callable[[], str]] = {
    "models": lambda: table(models()),
    "comparison": lambda: comparison(json.loads(COMPARISON.read_text())),
    "hosts": hosts,
}


def made(text: str, blocks: dict[str, Callable[[], str]] = BLOCKS) -> str:
    """A README with its blocks made anew.

    Raises:
        InputError: if it lacks one's two markers.
    """
    for name, make in blocks.items():
        begin, end = f"<!-- {name}: made by python -m hub.readme -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        if not found or not ends:
            raise InputError(f"the README has no '{begin}' ... '{end}': add these lines where it shall stand")
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hub.readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="default: the checkout's")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it would change")
    arguments = parser.parse_args()
    try:
        text = arguments.readme.read_text()
        new = made(text)
        if arguments.check:
            return int(new != text or not is_drawn(models()))
        write_atomically(arguments.readme, new.encode())
        figure(models())
        return 0
    except (InputError, OSError) as e:
        print(f"readme: error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
