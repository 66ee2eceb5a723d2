"""`python tests/benchmarks`: what ti-backbones costs and saves, as ratios of paired runs.

Prints a table (what, against what, the ratio, what it must reach) and writes the numbers as JSON. Say its numbers of a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import convergence
import finetuning
import import_time
import inference
import loading
import memory
import operators
import processes
import scaling
import timm
import torch
import training
from paired import Row, Settings
from tqdm import tqdm

from ti_backbones.checkpoint import write_atomically
from ti_backbones.distributed import fast_bf16, find_device
from ti_backbones.errors import InputError

BENCHMARKS: dict[str, Callable[..., Iterator[Row]]] = {
    "paper": training.paper,
    "paper-best": training.paper_best,
    "gain": convergence.gain,
    "step": training.step,
    "depthwise": training.depthwise,
    "transform": operators.transform,
    "warp": operators.warp,
    "warp-quarter": operators.warp_quarter,
    "warp-flip": operators.warp_flip,
    "inference": inference.inference,
    "finetune": finetuning.finetune,
    "input": loading.loading,
    "processes": processes.processes,
    "memory": memory.memory,
    "import": import_time.import_time,
}
HEAD = ("", "what", "against", "ratio", "of pairs", "must reach", "met?")


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"rows to measure, by comma: {', '.join(BENCHMARKS)}")
    parser.add_argument("--model", default="resnet50", help="architecture of inference (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="paired runs of each row")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: its own choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: proves that it runs, and says nothing else")
    parser.add_argument("--gain-minutes", type=float, default=20, help="of training, at most, for each side of gain")
    parser.add_argument("--scaling", action="store_true", help="measure how a step grows, too, and calculate DexYCB")
    parser.add_argument("--json", type=Path, help="write the numbers here, after every row anew")
    parser.add_argument("--figure", type=Path, help="draw the curves of gain here, a PNG")
    options = parser.parse_args(arguments)
    options.only = list(BENCHMARKS) if options.only is None else [n for n in options.only.split(",") if n]
    for name in options.only:
        if name not in BENCHMARKS:
            parser.error(f"--only has '{name}': it takes {', '.join(BENCHMARKS)}")
    if f"ti_{options.model}" not in timm.list_models():
        parser.error(f"--model is '{options.model}': it must be a timm architecture that has a ti_ name")
    for name, least in (("pairs", 1), ("threads", 0), ("gain_minutes", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}: it must be {least} or more")
    if options.figure and not options.figure.absolute().parent.is_dir():
        parser.error(f"--figure is '{options.figure}', in no folder that exists: make it, or give another")
    return options


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    facts = {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device.type}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    return facts | {"bf16_units": fast_bf16(device)} | versions


def table(rows: list[Row]) -> str:
    """The rows in columns."""
    cells: list[tuple[str, ...]] = [HEAD]
    for row in rows:
        spread = f"{min(row.ratios):.3f} to {max(row.ratios):.3f}"
        met = {True: "yes", False: "no", None: ""}[row.met]
        cells.append((row.name, row.what, row.against, f"{row.ratio:.3f}", spread, str(row.bar or ""), met))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def main() -> None:
    options = options_of()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    rows: list[Row] = []
    numbers: dict[str, Any] = {
        "command": shlex.join(["python", "tests/benchmarks", *sys.argv[1:]]),
        "machine": machine(device),
        "quick": options.quick,
    }

    def save() -> None:
        numbers["rows"] = [row.to_json() for row in rows]
        if options.json:
            write_atomically(options.json, (json.dumps(numbers, indent=1) + "\n").encode())

    save()  # where that is impossible, say so now
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(options.only, desc="benchmarks", unit="benchmark"):
            # each has a folder of its own: the next one must not find its files
            settings = Settings(options.pairs, device, options.quick, Path(folder) / name, options.model)
            settings.folder.mkdir()
            measured = BENCHMARKS[name]
            if name == "gain":
                measured = partial(measured, minutes=options.gain_minutes)
            for row in measured(settings):
                rows.append(row)
                save()
                if name == "gain" and options.figure:
                    convergence.figure(row.to_json(), options.figure)
        if options.scaling:
            settings = Settings(options.pairs, device, options.quick, Path(folder) / "scaling")
            settings.folder.mkdir()
            numbers["scaling"], text = scaling.report(settings)
            save()
    print(table(rows))
    if options.quick:
        print("quick: the sizes are too small for these ratios to mean anything")
    if text:
        print(f"\n{text}")


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        print(f"python tests/benchmarks: error: {e}", file=sys.stderr)
        sys.exit(2)
