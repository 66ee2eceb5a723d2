"""The table of architectures: which build as `ti_<arch>`, which wrap as a TIBackbone, and which cannot and why.

Everything runs on the meta device, where a model has shapes but no numbers: 1371 architectures need minutes
and hardly any memory. `architectures.csv` beside this file is the table for the timm version in its first line;
`ti-backbones architectures` (or `python -m ti_backbones.sweep`) writes it anew.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from .backbone import encode, latent_width, require_latent
from .checkpoint import write_atomically
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
    row = Architecture(name, family, "fails")
    try:
        encoder = _build(name, "meta")
        row = replace(row, status="builds", parameters=sum(p.numel() for p in encoder.parameters()))
        require_latent(encoder)
        size, z, feature_map = _measure(name, encoder)
    except Exception as e:  # any error at all is this row's result
        return replace(row, reason=_one_line(e))
    latent = latent_width(encoder)
    if z.shape != (1, latent) or feature_map.ndim != 4:
        reason = f"latent {tuple(z.shape)} and map {tuple(feature_map.shape)} are not (1, D) and (1, C, h, w)"
        return replace(row, reason=reason)
    return replace(row, status="wraps", input_size=size, latent=latent, feature_map=tuple(feature_map.shape[1:]))


def _measure(name: str, encoder: nn.Module) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The size of an image, and its latent and feature map."""
    cfg: Any = encoder.pretrained_cfg  # of timm, which nn.Module knows nothing of
    size = tuple(cfg["input_size"])
    try:
        return size, *_encode(encoder, size)
    except RuntimeError as e:
        if "meta" not in str(e):
            raise
    # gemma4_vit asks for a number on the way: a real run, then, at the smallest size
    size = tuple(cfg.get("min_input_size") or size)
    return size, *_encode(_build(name, "cpu"), size)


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

    Raises:
        InputError: for a pattern without architectures, a number of workers below 1, or a table that cannot be written.
    """
    names = timm.list_models(f"{PREFIX}{pattern}")
    if not names:
        raise InputError(f"no architecture matches '{pattern}': give a pattern such as 'resnet*'")
    if workers < 1:
        raise InputError(f"workers is {workers}: take 1 or more")
    if out is not None and not Path(out).parent.is_dir():  # known now, or only after minutes of work
        raise InputError(f"no folder '{Path(out).parent}' for the table '{out}': make it first")
    bar = functools.partial(tqdm, total=len(names), unit="model", disable=not progress, desc=f"timm {timm.__version__}")
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
            rows = list(bar(pool.imap(probe, names, chunksize=4)))
    else:
        rows = [probe(name) for name in bar(names)]
    if out is not None:
        write_atomically(Path(out), format_table(rows).encode())
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
    def size(text: str) -> tuple[int, ...]:
        return tuple(int(n) for n in text.split("x") if n)

    return Architecture(
        name=row["name"],
        family=row["family"],
        status=row["status"],
        parameters=int(row["parameters"] or 0),
        input_size=size(row["input_size"]),
        latent=int(row["latent"] or 0),
        feature_map=size(row["feature_map"]),
        reason=row["reason"],
    )


def summarize(rows: Sequence[Architecture]) -> str:
    """Counts, and every architecture that does not wrap with its reason."""
    count = Counter(row.status for row in rows)
    lines = [
        f"{len(rows)} architectures of {len({row.family for row in rows})} families in timm {timm.__version__}:"
        f" {len(rows) - count['fails']} build, {count['wraps']} wrap as TIBackbone"
    ]
    return "\n".join(lines + [f"  {row.name} {row.status}: {row.reason}" for row in rows if row.status != "wraps"])


class _WithoutNumbers(TorchFunctionMode):
    """Skip what changes numbers and no shape: the meta device has no numbers, and takes most of its time over these."""

    INITIALISATION = ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "copy_")
    LAYERS = ("layer_norm", "batch_norm", "group_norm", "gelu", "hardtanh")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in self.INITIALISATION + self.LAYERS:
            tensor = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            if tensor.device.type == "meta":
                return tensor
        return function(*args, **kwargs)


def _build(name: str, device: str) -> nn.Module:
    with warnings.catch_warnings(), _WithoutNumbers():
        warnings.simplefilter("ignore")  # what timm deprecates is no matter here
        return timm.create_model(name, device=device).eval()


def _encode(encoder: nn.Module, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    device = next(encoder.parameters()).device
    with torch.inference_mode(), _WithoutNumbers():
        return encode(encoder, torch.zeros(1, *size, device=device))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ti_backbones.sweep", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", default=None, help="table to write (default: none)")
    parser.add_argument("--pattern", default="*", help="architectures, such as 'resnet*'")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    print(summarize(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    _main()
