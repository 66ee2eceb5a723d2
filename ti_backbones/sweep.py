"""The table of architectures: which build as `ti_<arch>`, which wrap as a TIBackbone, and which cannot and why.

Everything runs on the meta device, where a model has shapes but no numbers: 1371 architectures need minutes
and hardly any memory. `architectures.csv` beside this file is the table for the timm version in its first line;
`ti-backbones architectures` (or `python -m ti_backbones.sweep`) writes it anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from .backbone import encode, latent_width, require_latent
from .errors import InputError
from .registry import PREFIX, base_name

TABLE = Path(__file__).with_name("architectures.csv")


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: "ti_<arch>".
        family: the timm module that defines the architecture.
        status: "wraps" (builds, and has a pooled latent and a feature map), "builds" (no more), or "fails".
        parameters: how many, without a classifier.
        input_size: (channels, height, width) that latent and map are for: timm's default, or the smallest size
            where the default is too much for a real run.
        latent: D, the width of the latent z (B, D).
        feature_map: (C, h, w) of the last feature map m (B, C, h, w).
        reason: why it does not wrap, in one line.
    """

    name: str
    family: str
    status: str
    parameters: int = 0
    input_size: tuple[int, ...] = ()
    latent: int = 0
    feature_map: tuple[int, ...] = ()
    reason: str = ""


def probe(name: str) -> Architecture:
    """Build a `ti_*` model and encode one image with it, on the meta device.

    Args:
        name: "ti_<arch>".
    """
    family = timm.model_entrypoint(base_name(name)).__module__.rpartition(".")[2]
    try:
        encoder = _build(name, "meta")
    except Exception as e:  # any error at all is this row's result
        return Architecture(name, family, "fails", reason=_one_line(e))
    row: dict[str, Any] = {"name": name, "family": family, "parameters": sum(p.numel() for p in encoder.parameters())}
    size = tuple(encoder.pretrained_cfg["input_size"])
    try:
        require_latent(encoder)
        z, feature_map = _encode(encoder, size)
    except RuntimeError as e:
        if "meta" not in str(e):
            return Architecture(**row, status="builds", reason=_one_line(e))
        # gemma4_vit asks for a number on the way: a real run, then, at the smallest size
        size = tuple(encoder.pretrained_cfg.get("min_input_size") or size)
        z, feature_map = _encode(_build(name, "cpu"), size)
    except Exception as e:
        return Architecture(**row, status="builds", reason=_one_line(e))
    row |= {"input_size": size, "latent": latent_width(encoder), "feature_map": tuple(feature_map.shape[1:])}
    fits = z.shape == (1, row["latent"]) and feature_map.ndim == 4
    reason = "" if fits else f"latent {tuple(z.shape)}, map {tuple(feature_map.shape)}: not (1, D) and (1, C, h, w)"
    return Architecture(**row, status="wraps" if fits else "builds", reason=reason)


def run(
    out: str | Path | None = None, pattern: str = "*", workers: int = 1, progress: bool = True
) -> list[Architecture]:
    """Probe architectures and write their table.

    Args:
        out: where the table goes; None writes none.
        pattern: which architectures, as timm.list_models takes it, without the `ti_`.
        workers: processes, of one thread each.
        progress: whether to show a progress bar.

    Returns:
        One row per architecture, in timm's order.
    """
    names = timm.list_models(f"{PREFIX}{pattern}")
    show = {"total": len(names), "unit": "model", "disable": not progress, "desc": f"timm {timm.__version__}"}
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
            rows = list(tqdm(pool.imap(probe, names, chunksize=4), **show))
    else:
        rows = [probe(name) for name in tqdm(names, **show)]
    if out is not None:
        Path(out).write_text(format_table(rows))
    return rows


def format_table(rows: Sequence[Architecture]) -> str:
    """Rows as CSV below a line that names the timm version; sizes as 3x224x224."""
    text = io.StringIO()
    text.write(f"# timm {timm.__version__}, written by: ti-backbones architectures\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(f.name for f in fields(Architecture))
    for row in rows:
        values = asdict(row).values()
        table.writerow("x".join(map(str, v)) if isinstance(v, tuple) else v or "" for v in values)
    return text.getvalue()


def read_table(path: str | Path = TABLE) -> tuple[str, list[Architecture]]:
    """A table that `run` wrote: its timm version, and its rows."""
    head, *lines = Path(path).read_text().splitlines()
    return head.split()[2].rstrip(","), [_parse(row) for row in csv.DictReader(lines)]


def _parse(row: dict[str, str]) -> Architecture:
    sizes = {k: tuple(int(n) for n in row[k].split("x") if n) for k in ("input_size", "feature_map")}
    numbers = {k: int(row[k] or 0) for k in ("parameters", "latent")}
    return Architecture(**(row | sizes | numbers))


def summarize(rows: Sequence[Architecture]) -> str:
    """Counts, and every architecture that does not wrap with its reason."""
    count = Counter(row.status for row in rows)
    lines = [
        f"{len(rows)} architectures of {len({row.family for row in rows})} families in timm {timm.__version__}:"
        f" {len(rows) - count['fails']} build, {count['wraps']} wrap as TIBackbone"
    ]
    return "\n".join(lines + [f"  {row.name} {row.status}: {row.reason}" for row in rows if row.status != "wraps"])


class _WithoutNumbers(TorchFunctionMode):
    """Skip what only changes numbers: on the meta device there are none, and initialisation takes most of a build."""

    SKIPPED = frozenset("uniform_ normal_ erfinv_ mul_ add_ clamp_ fill_ zero_ copy_".split())

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in self.SKIPPED:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.device.type == "meta":
                return tensor
        return function(*args, **kwargs)


def _build(name: str, device: str) -> nn.Module:
    with warnings.catch_warnings(), _WithoutNumbers():
        warnings.simplefilter("ignore")  # what timm deprecates is no matter here
        return timm.create_model(name, device=device).eval()


def _encode(encoder: nn.Module, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        return encode(encoder, torch.zeros(1, *size, device=device))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ti_backbones.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=None, help="table to write (default: none)")
    parser.add_argument("--pattern", default="*", help="architectures, such as 'resnet*'")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    print(summarize(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    _main()
