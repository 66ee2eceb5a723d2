"""What a comparison found: one table, JSON and figures, of all cells that are done."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import checkpoint
from .methods import METHODS

Cell = dict[str, Any]
_NO_IMAGE = (
    "Without an image: the mean of the training poses has {pose_mpjpe:.1f} / {pose_pa_mpjpe:.1f}, and the mean training"
    " hand, which is turned and scaled to fit, a PA-MPJPE of {hand_pa_mpjpe:.1f}. What is not below that does"
    " not show that it has learned how fingers are bent, whatever its MPJPE says of the hand's orientation."
)
STYLES = ("-", "--", ":", "-.")
TARGET = "scratch"  # the row whose final validation error the others are to reach


@dataclass
class Report:
    """A comparison's numbers: mm, mean over seeds with the sample standard deviation.

    Attributes:
        title: the budget and the sets. rows: each method, and its variants, with what was measured; see `_row`.
        reference: what needs no image, see `finetuning.reference`; empty if it was not computed.
    """

    title: str
    rows: list[dict[str, Any]]
    reference: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Everything, as JSON: `Report(**json.loads(text))` is the report again."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self, markdown: bool = False) -> str:
        """The headline numbers, as text or Markdown."""
        shares = shares_of(self.rows)
        header = ["method", "probe MPJPE / PA"]
        for share in shares:
            header += [f"{share}: MPJPE / PA", f"{share}: angle spread", f"{share}: epochs to target"]
        header += ["gain", "moving share", "lr (tried)", "validations", "hours: pretraining, fine-tuning"]
        lines = [header]
        for row in self.rows:
            line = [row["name"], _pair(row["probe"])]
            for share in shares:
                of = row["finetuning"].get(share)
                line += [_pair(of), _pair(of and of["spread"]), _epochs(of)]
            certificate = row["certificate"]
            line += [f"{certificate['gain']:.2f}", f"{certificate['moving_share']:.2f}"] if certificate else ["", ""]
            hours, trials = row["hours"], len(row["trials"])
            line += ["" if row["lr"] is None else f"{row['lr']:g}" + (f" ({trials})" if trials else "")]
            pretraining = "given" if row["given"] else f"{hours['pretraining']:.2f}"
            line += [str(row["validations"]), f"{pretraining}, {hours['finetuning']:.2f}"]
            lines.append(line)
        notes = (
            "MPJPE and PA-MPJPE (proper) on test, mm, mean ± standard deviation over seeds; angle spread: the same"
            " two at their worst in-plane rotation minus those at their best; epochs to target: until the mean"
            " validation MPJPE is scratch's last; gain and moving share: of the pretrained latent, on validation"
            " images; lr: of the pretraining, and how many were tried in short ones and compared by a linear probe on"
            " validation; validations: of all fine-tunings."
        )
        parts = [self.title, "", *_layout(lines, markdown), "", notes]
        if self.reference:
            parts += ["", _NO_IMAGE.format(**self.reference)]
        return "\n".join(parts)

    def curves(self, path: Path) -> None:
        """Draw the mean validation MPJPE by epoch, a panel for each share (needs matplotlib).

        A method has one colour, and a head one line style, in all panels.
        """
        shares = shares_of(self.rows)
        fig, panels = _figure(len(shares), 5.0)
        parts = [row["name"].partition(", ") for row in self.rows]
        methods, heads = (list(dict.fromkeys(part[k] for part in parts)) for k in (0, 2))
        lines = dict.fromkeys(row["name"] for row in self.rows)
        for axes, share in zip(panels, shares, strict=True):
            for name, (method, _, head), row in zip(lines, parts, self.rows, strict=True):
                if of := row["finetuning"].get(share):
                    look = {"color": f"C{methods.index(method)}", "linestyle": STYLES[heads.index(head) % len(STYLES)]}
                    lines[name] = axes.plot(of["curve"]["epoch"], of["curve"]["mpjpe"], label=name, **look)[0]
            axes.set(title=f"{share} of the labels", xlabel="epoch", ylabel="validation MPJPE [mm]")
            axes.grid(alpha=0.3)
        fig.legend(handles=list(filter(None, lines.values())), loc="outside right upper", frameon=False)
        fig.savefig(path, dpi=120)

    def bars(self, path: Path) -> None:
        """Draw MPJPE and PA-MPJPE on test, a panel for each share, with the spread over seeds (needs matplotlib)."""
        shares = shares_of(self.rows)
        fig, panels = _figure(len(shares), 4.0, 2.0)
        rows = [row for row in self.rows if row["finetuning"]]
        names, colours = [row["name"] for row in rows], ["C1" if row["name"].startswith("ti") else "C0" for row in rows]
        for axes, share in zip(panels, shares, strict=True):
            found, ends = [row["finetuning"].get(share) for row in rows], None
            for key, alpha in (("mpjpe", 0.4), ("pa_mpjpe", 1.0)):
                means = [of[key]["mean"] if of else 0.0 for of in found]
                spread = [(of[key]["sd"] or 0.0) if of else 0.0 for of in found]
                bars = axes.barh(names, means, xerr=spread, color=colours, alpha=alpha, ecolor="0.2")
                ends = ends or bars
            said = [f"{of['mpjpe']['mean']:.1f} / {of['pa_mpjpe']['mean']:.1f}" if of else "not run" for of in found]
            axes.bar_label(ends, said, padding=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
            axes.invert_yaxis()
            if self.reference:
                mean_hand = self.reference["hand_pa_mpjpe"]
                axes.axvline(mean_hand, color="0.2", linestyle=":", label="PA-MPJPE of the mean hand")
            axes.set(title=f"{share} of the labels", xlabel="MPJPE (light) / PA-MPJPE (dark) on test [mm]")
            axes.set_xlim(0, 1.45 * max(of["mpjpe"]["mean"] for of in found if of))
            if axes is not panels[0]:
                axes.set_yticklabels([])
            axes.spines[["top", "right"]].set_visible(False)
        if self.reference:
            fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", frameon=False)
        fig.savefig(path, dpi=120)


def write_report(out: Path, cells: Sequence[Cell], how: str) -> Report:
    """Write report.json, table.md and, with matplotlib, curves.png and bars.png.

    Args:
        cells: all that are done. how: what the sets are.
    """
    views = {c["method"]: c["views"] for c in cells if c["stage"] == "pretraining" and c["views"]}
    if len(set(views.values())) == 1:
        said = f"{next(iter(views.values()))} encoder views a pretraining; "
    else:
        said = "".join(f"{name}: {n} encoder views; " for name, n in views.items())
    report = summarise(cells, said + how)
    checkpoint.write_atomically(out / "report.json", report.to_json().encode())
    checkpoint.write_atomically(out / "table.md", f"{report.table(markdown=True)}\n".encode())
    if shares_of(report.rows):
        with contextlib.suppress(ImportError):  # extra [train]
            for draw, name in ((report.curves, "curves.png"), (report.bars, "bars.png")):
                with checkpoint.replacing(out / name) as [figure]:
                    draw(figure)
    return report


def summarise(cells: Sequence[Cell], title: str = "") -> Report:
    """The report of cells, in the order of the methods."""
    order = list(METHODS)
    of_methods = [c for c in cells if "method" in c]
    order += sorted({c["method"] for c in of_methods} - {*order})  # given models
    names = {(order.index(c["method"]), c["method"], c.get("variant", "")) for c in of_methods}
    rows = [_row(method, variant, of_methods) for _, method, variant in sorted(names)]
    targets = {s: of["curve"]["mpjpe"][-1] for r in rows if r["name"] == TARGET for s, of in r["finetuning"].items()}
    for row in rows:
        for share, of in row["finetuning"].items():
            if share in targets:
                of["target"] = targets[share]
                of["epochs_to_target"] = epochs_to(of["curve"], targets[share])
    reference = next((c["test"] for c in cells if c["stage"] == "reference"), {})
    return Report(title, rows, reference)


def _row(method: str, variant: str, cells: Sequence[Cell]) -> dict[str, Any]:
    own = [c for c in cells if c["method"] == method]
    pretrained = [c for c in own if c["stage"] == "pretraining"]
    tuned = [c for c in own if c["stage"] == "finetuning" and c["variant"] == variant]
    probes = [c for c in own if c["stage"] == "probe"] if not variant else []
    certificates = [c["certificate"] for c in pretrained]
    trials = [c for c in own if c["stage"] == "trial"]
    return {
        "name": f"{method}, {variant}" if variant else method,
        "views": max((c["views"] for c in pretrained), default=0),
        "lr": pretrained[0]["lr"] if any(c["views"] for c in pretrained) else None,
        "given": [c["given"] for c in pretrained if "given" in c],
        "trials": [{k: c[k] for k in ("lr", "validation")} for c in trials],
        "probe": _errors(probes) if probes else None,
        "finetuning": {
            f"{100 * share:g} %": _errors([c for c in tuned if c["labels"] == share])
            for share in sorted({c["labels"] for c in tuned})
        },
        "certificate": {k: statistics.mean(c[k] for c in certificates) for k in certificates[0]}
        if certificates
        else {},
        "validations": sum(c["trials"]["validations"] for c in [*probes, *tuned]),
        "trial_validations": sum(c.get("validations", 0) for c in trials),
        "recipes": max((c["trials"]["recipes"] for c in tuned), default=0),
        "hours": {
            "trials": sum(c["seconds"] for c in trials) / 3600,
            "pretraining": sum(c["seconds"] for c in pretrained) / 3600,
            "finetuning": sum(c["seconds"]["training"] for c in [*probes, *tuned]) / 3600,
            "testing": sum(c["seconds"]["testing"] for c in [*probes, *tuned]) / 3600,
        },
    }


def _errors(cells: Sequence[Cell]) -> dict[str, Any]:
    """Means over fine-tunings of one kind, and their mean validation curve."""
    curves = [c["curve"] for c in cells]
    known = [k for k in _CURVE if k in curves[0][0]]  # a probe has no epochs
    mean_curve = {k: [statistics.mean(r[k] for r in at) for at in zip(*curves, strict=True)] for k in known}
    return {
        "cells": len(cells),
        "hands": cells[0]["hands"],
        "mpjpe": _spread(c["test"]["mpjpe"] for c in cells),
        "pa_mpjpe": _spread(c["test"]["pa_mpjpe"] for c in cells),
        "spread": {k: _spread(c["test"]["spread"][k] for c in cells) for k in ("mpjpe", "pa_mpjpe")},
        "validation": {k: _spread(c["validation"][k] for c in cells) for k in ("mpjpe", "pa_mpjpe")},
        "validations": [len(curve) for curve in curves],
        "curve": mean_curve,
    }


_CURVE = ("epoch", "mpjpe", "pa_mpjpe")


def epochs_to(curve: dict[str, list[float]], target: float) -> float | None:
    """The first epoch whose MPJPE is the target or less; None if there is none."""
    reached = (e for e, m in zip(curve["epoch"], curve["mpjpe"], strict=True) if m <= target)
    return next(reached, None)


def _spread(values: Iterable[float]) -> dict[str, Any]:
    values = list(values)
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def shares_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The shares of the labels that any row was fine-tuned on, rising."""
    return sorted({share for row in rows for share in row["finetuning"]}, key=lambda s: float(s.split()[0]))


def _number(value: dict[str, Any] | None) -> str:
    if not value:
        return ""
    return f"{value['mean']:.1f}" + (f" ± {value['sd']:.1f}" if value["sd"] is not None else "")


def _pair(of: dict[str, Any] | None) -> str:
    return f"{_number(of['mpjpe'])} / {_number(of['pa_mpjpe'])}" if of else ""


def _epochs(of: dict[str, Any] | None) -> str:
    if not of or "target" not in of:
        return ""
    return "never" if of["epochs_to_target"] is None else f"{of['epochs_to_target']:g}"


def _layout(lines: list[list[str]], markdown: bool) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    if not markdown:
        return ["  ".join(line).rstrip() for line in padded]
    rule = ["-" * width for width in widths]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]


def _figure(panels: int, width: float, beside: float = 0.0) -> tuple[Any, Any]:
    """A figure and its panels in a row, each so many inches wide, with room for names beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(beside + width * panels, 3.8), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(1, panels, squeeze=False)[0]
