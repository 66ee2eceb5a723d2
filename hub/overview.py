"""The models of hub/models at a glance: the table and the figure that the README begins with, made of their files."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from ti_backbones.backbone import read_config
from ti_backbones.checkpoint import replacing
from ti_backbones.model_folder import VIEWS_FILE
from ti_backbones.published import WEIGHTS_FILE

MODELS = Path(__file__).resolve().parent / "models"
FIGURE = Path(__file__).resolve().parent / "results" / "models.png"
OURS = "ti"
RIVALS = ("scratch", "start", "ae-pooled")
NAMES = {"scratch": "scratch", "start": "ImageNet", "ae-pooled": "autoencoder", OURS: "TI"}
VIEWS_WIDTH = 9.6  # inches, however many panels stand below
MADE_OF = ("certificate.json", "photos.json", "comparison/report.json")


@dataclass(frozen=True)
class Model:
    """A folder of hub/models.

    Attributes:
        measured: MADE_OF -> what it holds. training: what config.json records of it.
    """

    folder: Path
    measured: dict[str, dict[str, Any]]
    training: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Model:
        measured = {file: json.loads((folder / file).read_text()) for file in MADE_OF}
        return cls(folder, measured, read_config(folder)["ti_backbones"]["training"])

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The comparison's rows by name."""
        return {row["name"]: row for row in self.measured["comparison/report.json"]["rows"]}

    @property
    def share(self) -> str:
        """The share of the labels that it was fine-tuned on, "" if it was not."""
        return next(iter(self.rows["scratch"]["finetuning"]), "")

    def tuned(self, row: str) -> dict[str, Any] | None:
        """A row's errors after fine-tuning."""
        return self.rows[row]["finetuning"].get(self.share) if row in self.rows else None


def models(folder: Path = MODELS) -> list[Model]:
    """All of them, the smallest first."""
    return sorted((Model.read(p.parent) for p in folder.glob("*/config.json")), key=lambda m: _size(m.folder)[1])


def table(found: list[Model]) -> str:
    """A line for each model, in Markdown."""
    if not found:
        return "No pretrained weights yet."
    header = ["model", "parameters", "file", "views seen", "gain", "moving share", "gain on photographs"]
    header += ["linear probe", f"fine-tuned on {_share(found)} of the labels"]
    header += [f"the same, {NAMES[row]}" for row in RIVALS]
    lines = [header, ["---"] * len(header)]
    for model in found:
        parameters, size = _size(model.folder)
        certificate, photos = model.measured["certificate.json"], model.measured["photos.json"]
        line = [f"[`{model.folder.name}`](hub/models/{model.folder.name}/README.md)", f"{parameters / 1e6:.1f} M"]
        line += [f"{size / 1e6:.1f} MB", f"{model.training['views']:,}"]
        line += [f"{certificate[key]:.2f}" for key in ("gain", "moving_share")] + [f"{photos['gain']:.2f}"]
        line += [errors(model.rows[OURS]["probe"])]
        line += [errors(model.tuned(row)) if row in model.rows else "" for row in (OURS, *RIVALS)]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(found: list[Model]) -> str:
    """The share of the labels that models were fine-tuned on."""
    return " or ".join(sorted({model.share for model in found if model.share})) or "none"


def errors(of: dict[str, Any] | None) -> str:
    """MPJPE / PA-MPJPE of a report's cells, in mm."""
    if not of:
        return "not run"
    means = [of[k]["mean"] for k in ("mpjpe", "pa_mpjpe")]
    deviation = of["pa_mpjpe"]["sd"]
    return " / ".join(f"{m:.1f}" for m in means) + (f" ± {deviation:.1f}" if deviation is not None else "")


def _size(folder: Path) -> tuple[int, int]:
    """Parameters (and buffers) of the encoder, and bytes of its file."""
    path = folder / WEIGHTS_FILE
    with safe_open(path, framework="pt") as file:
        count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (not a dict)
    return count, path.stat().st_size


def figure(found: list[Model], path: Path = FIGURE) -> None:
    """Draw what the smallest model's latents hold, what T_g is worth on them, and what pretraining is worth to pose.

    Without a model, nothing is drawn.
    """
    if not found:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tuned = [model for model in found if model.share]
    with Image.open(found[0].folder / VIEWS_FILE) as image:
        views = np.asarray(image.convert("RGB"))
    width = 4.8 * (1 + len(tuned))
    heights = (VIEWS_WIDTH * len(views) / len(views[0]), 3.2)
    fig = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(2, 1 + len(tuned), height_ratios=heights)
    picture = fig.add_subplot(grid[0, :])
    picture.imshow(views)
    picture.set_axis_off()
    first, *panels = (fig.add_subplot(grid[1, column]) for column in range(1 + len(tuned)))
    of = found[0].measured["certificate.json"]
    degrees = [*of["angles_deg"], 360.0]
    for key, label, colour in (("nothing", "left as it is: z(x)", "0.6"), ("error", "moved: T$_g$ z(x)", "C1")):
        for motion, style in (("rotated", "-"), ("flipped", "--")):
            error = of[f"{key}_{motion}"]
            first.plot(degrees, [*error, error[0]], style, color=colour, label=f"{label}, {motion}")
    first.set(xlabel="rotation of the image [degrees]", ylabel="squared error to z(g·x) / variance")
    first.set(title=f"the latent of {_short(found[0])}", xticks=range(0, 361, 90), ylim=(0, 1.3 * first.get_ylim()[1]))
    first.legend(fontsize=7, loc="upper center", ncols=2, columnspacing=1, frameon=False)
    for axes, model in zip(panels, tuned, strict=True):
        rows = {name: of for name in model.rows if (of := model.tuned(name))}
        names = [_row_name(name).replace(", ", ",\n") for name in rows]
        means = [of["mpjpe"]["mean"] for of in rows.values()]
        spread = [of["mpjpe"]["sd"] or 0.0 for of in rows.values()]
        bars = axes.barh(names, means, xerr=spread, color=["C1" if n.startswith(OURS) else "C0" for n in rows])
        labels = [f"{of['mpjpe']['mean']:.1f} / {of['pa_mpjpe']['mean']:.1f}" for of in rows.values()]
        axes.bar_label(bars, labels, padding=6, fontsize=8)
        axes.invert_yaxis()
        axes.set(title=f"{_short(model)}, {model.share} of the labels", xlim=(0, 1.45 * max(means)))
        axes.set_xlabel("MPJPE / PA-MPJPE on test [mm]")
    for axes in (first, *panels):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as [new]:
        fig.savefig(new, dpi=120, metadata={"Source": source(found)})


def _short(model: Model) -> str:
    return model.folder.name.partition(".")[0]


def _row_name(row: str) -> str:
    name, _, head = row.partition(", ")
    return f"{NAMES.get(name, name)}{f', {head} head' if head else ''}"


def source(found: list[Model]) -> str:
    """A digest of what the figure shows."""
    of = [[m.folder.name, m.measured["certificate.json"], m.measured["comparison/report.json"]] for m in found]
    views = [(m.folder / VIEWS_FILE).read_bytes() for m in found[:1]]
    return hashlib.sha256(b"".join([json.dumps(of, sort_keys=True).encode(), *views])).hexdigest()


def is_drawn(found: list[Model], path: Path = FIGURE) -> bool:
    """Whether the figure is there and shows these models."""
    if not found or not path.is_file():
        return not found
    with Image.open(path) as image:
        return image.info.get("Source") == source(found)
